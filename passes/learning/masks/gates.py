"""A gate on every entry of an atom: its contractions multiply by it, in a model that PyTorch can differentiate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, Kind, atoms, factors, find, parts
from pruneopt.analysis.bodies import graphs_of
from pruneopt.analysis.groups import Group
from pruneopt.analysis.infer import Analysis
from pruneopt.analysis.op import Use
from pruneopt.arrays import Feeds
from pruneopt.model import Model
from pruneopt.passes.learning.net import Net, Tensors
from pruneopt.passes.rewriting.names import Names
from pruneopt.passes.rewriting.shrink import twins

Gates = Mapping[Axis, Any]  # atom -> torch.Tensor, shape [size of the atom]


def gate_of(axis: Axis, gates: Gates) -> Any:
    """The gates of an axis, shape [its size]: `analysis.masks.mask_of` for numbers that learn."""
    import torch

    axis = find(axis)
    if axis.kind is Kind.ATOM:
        return gates[axis] if axis in gates else torch.ones(axis.size[0])
    if axis.kind is Kind.CONCAT:
        return torch.cat([gate_of(p, gates) for p in parts(axis)])
    whole = torch.ones(1)
    for factor in factors(axis):
        whole = torch.kron(whole, gate_of(factor, gates))
    return whole


def gateable(group: Group, analysis: Analysis) -> bool:
    """Whether a group's removal is the same as gates of 0 where it is contracted, and nothing else is needed.

    Not so where a statistic runs over it, where its size depends on the input's, where zero is not 0 (quantised),
    and inside bodies of If, Loop and Scan.
    """
    main = {id(node) for node in analysis.model.graph.nodes}
    uses = [u for u in analysis.contractions if group.atom in atoms(u.axis)]
    plain = all(find(u.axis).static and u.zero < 0 and id(u.node) in main for u in uses)
    return bool(uses) and plain and not any(group.atom in atoms(u.axis) for u in analysis.statistics)


def gated_uses(analysis: Analysis, wanted: Sequence[Axis]) -> Iterator[Use]:
    """Every contraction of the wanted atoms, in one operand only; an activation rather than a weight."""
    chosen = set(wanted)
    found: dict[tuple[int, str], dict[int, list[Use]]] = {}
    for use in analysis.contractions:
        if not chosen.isdisjoint(atoms(use.axis)):
            found.setdefault((id(use.node), use.label), {}).setdefault(use.slot, []).append(use)
    for slots in found.values():
        yield from min(slots.values(), key=lambda u: isinstance(u[0].node.inputs[u[0].slot], gs.Constant))


@dataclass(frozen=True)
class Site:
    """Where gates are multiplied: a constant of the gated model, the axis that it stands for, and its shape."""

    name: str
    axis: Axis
    shape: tuple[int, ...]


class Gated:
    """A model whose chosen atoms have gates.

    Attributes:
        net: the gated model in PyTorch.
        sites: where gates are multiplied.
    """

    def __init__(self, analysis: Analysis, wanted: Sequence[Axis]) -> None:
        model, self.sites = _with_gates(analysis, wanted)
        self.net = Net(model)

    def run(self, feeds: Feeds, gates: Gates, changed: Mapping[str, Any] | None = None) -> Tensors:
        """Every output by name, at these gates; `changed` weights stand in for the model's own."""
        values = {site.name: gate_of(site.axis, gates).reshape(site.shape) for site in self.sites}
        return self.net.run(feeds, values | dict(changed or {}))


def _with_gates(analysis: Analysis, wanted: Sequence[Axis]) -> tuple[Model, list[Site]]:
    """x -> x * gate at every contraction of the wanted atoms; all gates are 1."""
    copy = analysis.model.copy()
    twin, names = twins(analysis.model, copy), Names(copy.graph)
    before: dict[int, list[gs.Node]] = {}
    sites = []
    for use in gated_uses(analysis, wanted):
        node, tensor = twin[id(use.node)], use.node.inputs[use.slot]
        rank = len(tensor.shape) if isinstance(tensor, gs.Constant) else len(analysis.axes[tensor.name])
        shape = tuple(find(use.axis).size[0] if d == use.dim else 1 for d in range(rank))
        gate = gs.Constant(names.new("gate"), np.ones(shape, np.float32))
        out = gs.Variable(names.new("gated"), tensor.dtype)
        inputs = [node.inputs[use.slot], gate]
        before.setdefault(id(node), []).append(gs.Node("Mul", out.name, {}, inputs, [out]))
        node.inputs[use.slot] = out
        sites.append(Site(gate.name, use.axis, shape))
    for graph in graphs_of(copy.graph):
        graph.nodes = [n for node in graph.nodes for n in (*before.get(id(node), []), node)]
    return copy, sites
