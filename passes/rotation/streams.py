"""The residual stream around an atom: regions of tensors between norms, who writes to them, and who reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, volume
from pruneopt.analysis.infer import Analysis, ConstantUse
from pruneopt.passes.rotation.linear import UNMOVED, NotLinear, Place
from pruneopt.passes.rotation.norms import Norm, find_norms
from pruneopt.passes.rotation.regions import Areas, Region
from pruneopt.passes.statistics.consumers import Consumer

EXTRA = 0.02  # of the model's multiply-accumulates: what maps in the place of gains may cost


@dataclass(frozen=True, eq=False)
class Scale:
    """A branch times a constant vector before it joins the stream: y * s, y = x W + b.

    Attributes:
        node: the product.
        factor: s, as the node uses it.
        writes: constants that make the branch, W and b.
    """

    node: gs.Node
    factor: ConstantUse
    writes: list[tuple[ConstantUse, int]]


@dataclass
class Residual:
    """How the atom's basis may change.

    Attributes:
        place: where the atom is.
        norms: all norms over it.
        regions: between the norms.
        scales: products with a constant vector along the atom, and the writes before them that can take it over.
        absorbed: per norm whose gain and shift its readers take over, these readers.
        mapped: norms whose gain becomes a matrix, and the region that it writes to.
    """

    place: Place
    norms: list[Norm]
    regions: list[Region]
    scales: list[Scale] = field(default_factory=list)
    absorbed: dict[Norm, list[Consumer]] = field(default_factory=dict)
    mapped: dict[Norm, Region] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Entries of the atom."""
        return self.place.atom.size[0]


def find_residual(analysis: Analysis, atom: Axis, consumers: Mapping[int, Consumer]) -> Residual:
    """The regions around an atom under a norm, and what becomes of the norms' gains.

    Args:
        analysis: of the model.
        atom: the axis.
        consumers: by the `id` of their nodes.

    Raises:
        NotLinear: its basis cannot be changed; the text says why.
    """
    place = Place(analysis, atom)
    norms = list(find_norms(place))
    regions, scales = _regions(place, norms)
    residual = Residual(place, norms, regions, scales)
    _check_precision(place)
    for region in residual.regions:
        _check_centred(region)
        for norm in region.made_by:
            readers = _absorbing(region, place, consumers)
            if readers is not None:
                residual.absorbed[norm] = readers
            elif not _is_plain(norm, residual.size):
                residual.mapped[norm] = region
    _check_ties(residual)
    _check_cost(residual)
    return residual


def _regions(place: Place, norms: list[Norm]) -> tuple[list[Region], list[Scale]]:
    inside = {id(node) for norm in norms for node in norm.nodes}
    areas = Areas()
    products: list[gs.Node] = []
    for node in place.nodes():
        if id(node) in inside:
            continue
        variables = [node.inputs[i] for i in place.inputs(node)]
        outputs = place.outputs(node)
        if node.op == "Shape":
            continue
        if node.op == "Mul" and len(variables) == len(place.constants(node)) == 1:
            products.append(node)
        elif place.carries(node):
            region = areas.join([*variables, *outputs])
            region.plain = region.plain and node.op not in UNMOVED
            region.writes += [(u, d) for u in place.constants(node) for d in place.dims(u)]
        elif place.reads(node) or place.writes(node):
            for tensor in variables:
                areas.of(tensor).readers.append(node)
            for use in place.constants(node):
                if (id(node), use.slot) not in place.summed or len(place.dims(use)) > 1:
                    areas.join(outputs).writes += [(use, d) for d in _written(place, node, use)]
        else:
            raise NotLinear(f"{node.op} '{node.name or node.outputs[0].name}' is not linear along it")
    for norm in norms:
        areas.named(norm.data).norms.append(norm)
        areas.named(norm.output).made_by.append(norm)
    scales = [_scale(place, node, products, areas) for node in products]
    return areas.all(), scales


def _scale(place: Place, node: gs.Node, products: list[gs.Node], areas: Areas) -> Scale:
    """The branch before a product becomes part of the region behind it."""
    source = node.inputs[place.inputs(node)[0]]
    branch = areas.of(source)
    mine = [n for n in products if areas.of(n.inputs[place.inputs(n)[0]]) is branch]
    if branch.norms or branch.made_by or branch.readers or len(mine) > 1 or not branch.writes:
        raise NotLinear(f"Mul '{node.name or node.outputs[0].name}' scales the stream itself")
    if any(u.weight and len(u.constant.outputs) > 1 for u, _ in branch.writes):
        raise NotLinear(
            f"Mul '{node.name or node.outputs[0].name}' scales a weight that is used elsewhere, too"
        )
    writes = list(branch.writes)
    areas.join([*place.outputs(node), source])
    return Scale(node, place.constants(node)[0], writes)


def _written(place: Place, node: gs.Node, use: ConstantUse) -> Iterator[int]:
    """The dimensions of a constant that its node's output has, not those that it sums over."""
    summed = {u.dim for u in place.analysis.contractions if u.node is node and u.slot == use.slot}
    yield from (d for d in place.dims(use) if d not in summed)


def _check_centred(region: Region) -> None:
    if region.centred and (region.readers or not all(n.centred for n in region.norms)):
        raise NotLinear("its mean, which a norm takes off, is read elsewhere, too")


def _check_precision(place: Place) -> None:
    for use in place.uses.values():
        if np.dtype(use.constant.dtype) not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise NotLinear(f"'{use.constant.name}' is {use.constant.dtype}, which would round a new basis")


def _absorbing(region: Region, place: Place, consumers: Mapping[int, Consumer]) -> list[Consumer] | None:
    """The readers of a norm's output that can take over its gain and shift; None where some cannot."""
    if len(region.made_by) != 1 or region.writes or region.norms or not region.plain:
        return None
    found = [consumers.get(id(node)) for node in region.readers]
    size = place.atom.size[0]
    shifted = bool(region.made_by[0].shift(size).any())
    whole = [
        c for c in found if c is not None and not c.shared and c.groups == 1 and not (shifted and _pads(c))
    ]
    square = any(place.dim(str(t.name)) is not None for c in whole for t in c.node.outputs)
    return None if len(whole) < len(found) or square else whole


def _pads(consumer: Consumer) -> bool:
    return consumer.node.op == "Conv" and consumer.window > 1


def _is_plain(norm: Norm, size: int) -> bool:
    """Whether gain and shift hold in any basis: one number, and nothing."""
    gain = norm.gain(size)
    return bool((gain == gain[0]).all()) and not norm.shift(size).any()


def _check_ties(residual: Residual) -> None:
    """A weight that is used twice has to stay one."""
    changes: dict[int, set[tuple[tuple[int, bool], ...]]] = {}
    centred = {(id(u.node), u.slot, d): r.centred for r in residual.regions for u, d in r.writes}
    for use in residual.place.uses.values():
        if use.weight:
            dims = residual.place.dims(use)
            change = tuple((d, centred.get((id(use.node), use.slot, d), False)) for d in dims)
            changes.setdefault(id(use.constant), set()).add(change)
    if any(len(found) > 1 for found in changes.values()):
        raise NotLinear("a weight under a norm that takes its mean off is used elsewhere, too")


def _check_cost(residual: Residual) -> None:
    analysis = residual.place.analysis
    whole = sum(volume(axes) for _, axes in analysis.macs)
    tokens = [volume(analysis.axes[norm.output]) for norm in residual.mapped]
    if sum(tokens) * residual.size > EXTRA * whole:
        raise NotLinear(
            "a norm's scale lies on the residual path, where a new basis would cost a matrix product"
        )
