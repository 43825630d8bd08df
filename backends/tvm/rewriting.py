"""Puts kernels into a graph: one SparseLinear node, with its packed non-zeros as initializers, for each layer.

y = pruneopt::SparseLinear <kernel = "sparse_..."> (x, values, offsets, starts, bias)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from pruneopt.backends.tvm.compiler import Plan
from pruneopt.backends.tvm.packing import pack
from pruneopt.backends.tvm.sites import Site
from pruneopt.model import Model

DOMAIN = "pruneopt"
OP = "SparseLinear"


def rewrite(model: Model, chosen: Mapping[str, tuple[Site, Plan]]) -> Model:
    """A copy of `model` in which the sites, by the name of their y, run as planned.

    The sites are those of `model`, or of a copy of it.
    """
    new = model.copy()
    if not any(each.domain == DOMAIN for each in new.header.opset_import):
        new.header.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    makers = {tensor.name: node for node in new.graph.nodes for tensor in node.outputs}
    tensors = {tensor.name: tensor for node in new.graph.nodes for tensor in [*node.inputs, *node.outputs]}
    for name, (site, plan) in chosen.items():
        first = makers[site.node.outputs[0].name]
        y = tensors[name]
        replaced = {id(makers[node.outputs[0].name]) for node in site.fused}
        x = first.inputs[0]
        inputs = [x, *_arrays(name, site, plan)]
        node = gs.Node(OP, f"{first.name or name}/sparse", {"kernel": plan.name}, inputs, domain=DOMAIN)
        place = max(i for i, each in enumerate(new.graph.nodes) if id(each) in replaced)
        new.graph.nodes.insert(place, node)
        for old in [each for each in new.graph.nodes if id(each) in replaced]:
            old.inputs.clear()
            old.outputs.clear()
            new.graph.nodes.remove(old)
        node.outputs = [y]
    return new


def _arrays(name: str, site: Site, plan: Plan) -> list[gs.Constant]:
    packed = pack(site.weight, site.bias, site.layer, plan.schedule, plan.places())
    arrays = {
        "values": packed.values,
        "offsets": packed.offsets,
        "starts": packed.starts,
        "bias": packed.bias,
    }
    return [gs.Constant(f"{name}/{kind}", np.ascontiguousarray(array)) for kind, array in arrays.items()]
