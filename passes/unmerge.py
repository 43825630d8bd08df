"""Takes fused linear maps apart, where one axis holds several equal parts that are picked one by one.

    qkv = x W, W: c -> (3 h d);  q, k, v = qkv[0], qkv[1], qkv[2]
    q = x W_q, k = x W_k, v = x W_v

While fused, query, key and value share the atoms `h d` and can only shrink alike. Taken apart, the algebra
gives each its own. Nothing is matched: the region between the linear map and the picks is where the
axis of parts lives, and restricting it to one part is `shrink` with a mask of one entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, Kind, atoms, factors, find, parts
from pruneopt.analysis.infer import Analysis, ConstantUse, analyse
from pruneopt.analysis.masks import Mask, mask_of, touched
from pruneopt.analysis.witness import axes_of
from pruneopt.model import Model, values
from pruneopt.passes.base import Outcome
from pruneopt.passes.claims import Unchanged
from pruneopt.passes.context import Context
from pruneopt.passes.exact.identities import drop_dead
from pruneopt.passes.rewriting.edits import read_instead, repeated
from pruneopt.passes.rewriting.names import Names
from pruneopt.passes.rewriting.shrink import compress, tidy, twins
from pruneopt.passes.rewriting.witnesses import WitnessWriter

PICKS = {"Gather", "Split", "Slice"}
MOST = 8  # parts of one fused map


@dataclass(frozen=True)
class Unmerge:
    """Split fused query, key and value maps (and anything built like them) into one linear map each."""

    def run(self, model: Model, context: Context) -> Outcome:
        """The model with fused maps taken apart; exact."""
        analysis = analyse(model, context.observation(model), context.keep)
        copy = model.copy()
        twin = twins(model, copy)
        names = Names(copy.graph)
        count = sum(_Region(analysis, bundle).take_apart(copy, twin, names) for bundle in _bundles(analysis))
        drop_dead(copy.graph)
        return Outcome(tidy(copy), {"taken_apart": count}, Unchanged(model, context.feeds) if count else None)


Bundle = tuple[Axis, ...]  # atoms that together are the axis of parts: one of size k, or k of size 1


def _bundles(analysis: Analysis) -> Iterator[Bundle]:
    """Leading factors of weights' axes that are made of a few single entries."""
    found: dict[Bundle, None] = {}
    for use in analysis.uses:
        for axis in use.axes if use.weight else []:
            lead = (factors(axis) or [axis])[0]  # of size 1, it has none
            whole = parts(lead) if find(lead).kind is Kind.CONCAT else [lead]
            singles = len(whole) > 1 and all(p.size[0] == 1 and find(p).kind is Kind.ATOM for p in whole)
            atom = len(whole) == 1 and 1 < whole[0].size[0] <= MOST and whole[0].frozen is not None
            if len(factors(axis)) > 1 and len(whole) <= MOST and (singles or atom):
                found.setdefault(tuple(map(find, whole)))
    yield from found


class _Region:
    """The nodes through which the axis of parts runs, from the linear map to the picks."""

    def __init__(self, analysis: Analysis, bundle: Bundle) -> None:
        self.analysis = analysis
        self.bundle = dict.fromkeys(bundle)
        self.uses: dict[int, list[ConstantUse]] = {}
        for use in analysis.uses:
            self.uses.setdefault(id(use.node), []).append(use)
        self.nodes = [n for n in analysis.model.graph.nodes if self._inside(n)]

    def take_apart(self, copy: Model, twin: dict[int, gs.Node], names: Names) -> bool:
        """Replace the region in `copy` by one restricted region per part; False where it is not that simple."""
        picks = [n for n in self.nodes if n.op in PICKS and not any(map(self._runs_through, n.outputs))]
        chain = [n for n in self.nodes if not any(n is p for p in picks)]
        if not picks or not chain or not self._is_closed(chain, picks):
            return False
        for part in range(self._count()):
            mask = self._mask(part)
            made = self._clone(chain, mask, copy, twin, names)
            for pick in picks:
                self._connect(pick, mask, made, twin, copy)
        return True

    def _count(self) -> int:
        return sum(a.size[0] for a in self.bundle)

    def _mask(self, part: int) -> dict[Axis, Mask]:
        flat = np.arange(self._count()) == part
        cuts = np.cumsum([a.size[0] for a in self.bundle])[:-1]
        return dict(zip(self.bundle, np.split(flat, cuts), strict=True))

    def _inside(self, node: gs.Node) -> bool:
        tensors = (*node.inputs, *node.outputs)
        return any(self._runs_through(t) for t in tensors)

    def _runs_through(self, tensor: gs.Tensor) -> bool:
        """Whether the whole axis of parts is in a variable."""
        if isinstance(tensor, gs.Constant):
            return False
        inside = {a for axis in self.analysis.axes.get(tensor.name, []) for a in atoms(axis)}
        return bool(inside) and set(self.bundle) <= inside

    def _is_closed(self, chain: list[gs.Node], picks: list[gs.Node]) -> bool:
        """Nothing sums or takes statistics over the parts, nothing else reads them, every pick takes one."""
        graph = self.analysis.model.graph
        ends = {t.name for t in graph.outputs}
        summed = [
            u
            for u in (*self.analysis.contractions, *self.analysis.statistics)
            if not set(self.bundle).isdisjoint(atoms(u.axis))
        ]
        inside = {id(n) for n in (*chain, *picks)}
        readers = (c for n in chain for t in n.outputs for c in t.outputs)
        return (
            not summed
            and not any(t.name in ends for n in chain for t in n.outputs)
            and all(id(reader) in inside for reader in readers)
            and all(len(n.outputs) == 1 for n in chain)
            and all(self._picked(p, out) is not None for p in picks for out in range(len(p.outputs)))
        )

    def _picked(self, pick: gs.Node, out: int) -> int | None:
        """Which part an output of a pick is."""
        if pick.op == "Gather":
            index = pick.inputs[1]
            known = (
                values(index) if isinstance(index, gs.Constant) else self.analysis.seen.static.get(index.name)
            )
            return (
                int(known.reshape(-1)[0]) % self._count() if known is not None and known.size == 1 else None
            )
        inside = {a for axis in self.analysis.axes.get(pick.outputs[out].name, []) for a in atoms(axis)}
        found = [i for i, a in enumerate(self.bundle) if a in inside]
        return found[0] if len(found) == 1 and len(self.bundle) > 1 else None

    def _clone(
        self,
        chain: list[gs.Node],
        mask: dict[Axis, Mask],
        copy: Model,
        twin: dict[int, gs.Node],
        names: Names,
    ) -> dict[str, gs.Variable]:
        """The chain restricted to one part; returns its tensors by their old names."""
        original = {id(twin[id(node)]): node for node in chain}

        def restricted(old: gs.Node, inputs: list[gs.Tensor]) -> list[gs.Tensor]:
            for use in self.uses.get(id(original[id(old)]), []):
                if any(touched(a, mask) for a in use.axes):
                    kept = compress(values(use.constant), [mask_of(a, mask) for a in use.axes])
                    inputs[use.slot] = gs.Constant(names.new(use.constant.name), kept)
            return inputs

        made = repeated(copy.graph, [twin[id(node)] for node in chain], names, restricted)
        writer = WitnessWriter(copy, self.analysis, mask, names)
        for witness in self.analysis.witnesses:
            out = made.get(witness.node.outputs[0].name)
            if out is not None and any(touched(a, mask) for a in axes_of(witness)):
                writer.write(witness, out.inputs[0])
        return made

    def _connect(
        self,
        pick: gs.Node,
        mask: dict[Axis, Mask],
        made: dict[str, gs.Variable],
        twin: dict[int, gs.Node],
        copy: Model,
    ) -> None:
        """Readers of a picked part read the restricted region instead."""
        old = twin[id(pick)]
        part = int(np.flatnonzero(np.concatenate(list(mask.values())))[0])
        restricted = made[pick.inputs[0].name]
        for out, tensor in enumerate(list(old.outputs)):
            if self._picked(pick, out) != part:
                continue
            if pick.op == "Gather":
                old.inputs = [
                    restricted,
                    gs.Constant(f"{tensor.name}//first", np.zeros_like(values(pick.inputs[1]))),
                ]
            else:
                read_instead(tensor, restricted)
