"""Puts kernels into a graph: one node, with its packed non-zeros as initializers, for each layer.

y = pruneopt::sparse_... (x, values, offsets, starts, bias), where the op is the kernel's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from pruneopt.backends.tvm.compiler import Plan
from pruneopt.backends.tvm.fallback import LEAST_IR, function
from pruneopt.backends.tvm.packing import pack
from pruneopt.backends.tvm.sites import Site
from pruneopt.model import Model, makers

DOMAIN = "pruneopt"


def rewrite(model: Model, chosen: Mapping[str, tuple[Site, Plan]], fallback: bool = False) -> Model:
    """A copy of `model` in which the sites, by the name of their y, run as planned.

    The sites are those of `model`, or of a copy of it. With a `fallback`, the ops are functions of the model, too,
    for runtimes without the library. Raises PruneoptError where the model's opset is too old for that.
    """
    new = model.copy()
    if not any(each.domain == DOMAIN for each in new.header.opset_import):
        new.header.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    made, tensors = makers(new.graph), new.graph.tensors()
    for name, (site, plan) in chosen.items():
        first = made[site.node.outputs[0].name]
        y = tensors[name]
        replaced = {id(made[node.outputs[0].name]) for node in site.fused}
        x = first.inputs[0]
        inputs = [x, *_arrays(name, site, plan)]
        node = gs.Node(plan.name, f"{first.name or name}/sparse", {}, inputs, domain=DOMAIN)
        place = max(i for i, each in enumerate(new.graph.nodes) if id(each) in replaced)
        new.graph.nodes.insert(place, node)
        for old in [each for each in new.graph.nodes if id(each) in replaced]:
            old.inputs.clear()
            old.outputs.clear()
            new.graph.nodes.remove(old)
        node.outputs = [y]
    if fallback:
        _add_functions(new, [plan for _, plan in chosen.values()])
    return new


def _add_functions(model: Model, plans: Sequence[Plan]) -> None:
    unique = {plan.name: plan for plan in plans}.values()
    model.header.functions.extend(function(DOMAIN, plan, model.opset()) for plan in unique)
    model.header.ir_version = max(model.header.ir_version, LEAST_IR)


def _arrays(name: str, site: Site, plan: Plan) -> list[gs.Constant]:
    packed = pack(site.weight, site.bias, site.layer, plan.schedule, plan.places())
    arrays = {
        "values": packed.values,
        "offsets": packed.offsets,
        "starts": packed.starts,
        "bias": packed.bias,
    }
    return [gs.Constant(f"{name}/{kind}", np.ascontiguousarray(array)) for kind, array in arrays.items()]
