"""What can be removed and why the rest cannot, as text and figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Any

from pruneopt.analysis.axes import Axis, Reason, atoms, show, volume
from pruneopt.analysis.blocks import Blocks
from pruneopt.analysis.cost import CostModel, is_weight
from pruneopt.analysis.groups import Group, find_groups
from pruneopt.analysis.infer import Analysis
from pruneopt.errors import UsageError


@dataclass(frozen=True)
class Inspection:
    """What pruneopt found in a model.

    Attributes:
        analysis: all axes.
        groups: what can shrink.
    """

    analysis: Analysis
    groups: tuple[Group, ...]

    def shares(self, group: Group) -> tuple[float, float]:
        """(share of parameters, share of MACs) in weights and products that shrink with the group."""
        cost = CostModel(self.analysis, -1)
        params = sum(volume(t) for t in cost.params_terms if _has(t, group.atom))
        macs = sum(volume(t) for t in cost.macs_terms if _has(t, group.atom))
        whole = cost.all({})
        return params / max(whole.params, 1), macs / max(whole.macs, 1)

    def prunable_share(self) -> float:
        """Share of the parameters of weights with at least one dimension that can shrink."""
        free = {g.atom for g in self.groups}
        terms = CostModel(self.analysis).params_terms
        reached = sum(volume(t) for t in terms if any(a in free for axis in t for a in atoms(axis)))
        return reached / max(sum(map(volume, terms)), 1)

    def frozen(self) -> list[dict[str, Any]]:
        """Weight dimensions that cannot shrink: reason, size and tensors, largest first."""
        found: dict[tuple[Reason, str], list[str]] = {}
        sizes: Counter[tuple[Reason, str]] = Counter()
        for use in self.analysis.uses:
            for dim, axis in enumerate(use.axes if is_weight(use) else []):
                for atom in dict.fromkeys(atoms(axis)):
                    if atom.frozen and atom.size[0] > 1:
                        key = (atom.frozen, show(atom))
                        found.setdefault(key, []).append(f"{use.constant.name}:{dim}")
                        sizes[key] += prod(use.constant.shape)
        return [
            {
                "reason": str(reason),
                "why": reason.text,
                "node": reason.node,
                "size": size,
                "tensors": found[reason, size],
            }
            for (reason, size), _ in sizes.most_common()
        ]

    def blocks(self) -> list[dict[str, Any]]:
        """Blocks and layers that `depth` can take out: ends, shares of the costs, and what stands against it."""
        found, cost = Blocks(self.analysis), CostModel(self.analysis, -1).all({})
        return [
            {
                "name": block.name,
                "entry": block.entry,
                "exit": block.exit,
                "params": sum(map(volume, found.params_terms(block.nodes))) / max(cost.params, 1),
                "macs": sum(map(volume, found.macs_terms(block.nodes))) / max(cost.macs, 1),
                "outputs": list(block.sides),
                "refused": block.refused,
            }
            for block in found.all()
        ]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        groups = []
        for group in self.groups:
            params, macs = self.shares(group)
            entry = {
                "name": group.name,
                "size": group.size,
                "params": params,
                "macs": macs,
                "coupled": group.coupled,
            }
            groups.append(entry | {"tensors": [str(t) for t in group.touches]})
        found = {"prunable_share": self.prunable_share(), "groups": groups, "frozen": self.frozen()}
        return found | {"blocks": self.blocks()}


def inspect_analysis(analysis: Analysis) -> Inspection:
    """Groups of an analysed model, largest share of parameters first."""
    groups = sorted(find_groups(analysis), key=lambda g: -g.params)
    return Inspection(analysis, tuple(groups))


def explain(analysis: Analysis, place: str) -> list[str]:
    """Follow one axis, `tensor:dim`, through the graph: what shrinks with it, and what stops it.

    Raises:
        UsageError: no such tensor or dimension.
    """
    name, _, dim = place.rpartition(":")
    axis = _find(analysis, name, dim)
    lines = [f"{place} = {show(axis)}"]
    for atom in dict.fromkeys(atoms(axis)):
        state = (
            f"stays: {atom.frozen}"
            if atom.frozen
            else f"coupled: {atom.coupled}"
            if atom.coupled
            else "can shrink"
        )
        lines.append(f"  {show(atom)}: {state if atom.static else 'dynamic'}")
        lines += [f"    {where}" for where in _follow(analysis, atom)]
    return lines


def _find(analysis: Analysis, name: str, dim: str) -> Axis:
    terms = dict(analysis.axes)
    for use in analysis.uses:
        terms.setdefault(use.constant.name, use.axes)
    if name not in terms:
        raise UsageError(f"there is no tensor '{name}'; write TENSOR:AXIS, for example {next(iter(terms))}:0")
    if not dim.lstrip("-").isdigit() or not -len(terms[name]) <= int(dim) < len(terms[name]):
        raise UsageError(f"'{name}' has dimensions 0 to {len(terms[name]) - 1}, not '{dim}'")
    return terms[name][int(dim)]


def _follow(analysis: Analysis, atom: Axis) -> list[str]:
    """Every place of the atom in graph order: `op 'node': tensor:dim (axis)`."""
    constants = {(id(u.node), u.slot): u.axes for u in analysis.uses}
    lines = []
    for node in analysis.model.graph.nodes:
        places = []
        for slot, tensor in enumerate(node.inputs):
            places += _places(tensor.name, constants.get((id(node), slot), []), atom)
        for tensor in node.outputs:
            places += _places(tensor.name, analysis.axes.get(tensor.name, []), atom)
        if places:
            lines.append(f"{node.op} '{node.name}': {', '.join(places)}")
    return lines


def _places(name: str, axes: list[Axis], atom: Axis) -> list[str]:
    return [f"{name}:{d} = {show(a)}" for d, a in enumerate(axes) if atom in atoms(a)]


def _has(axes: tuple[Axis, ...], atom: Axis) -> bool:
    return any(atom in atoms(axis) for axis in axes)
