"""Where a residual stream is added to: Adds of the stream and a branch, found by dominance.

The stream is followed through light steps only: from a tensor to the next one that all paths go through, of the
same size, with no multiply-accumulate in between. Norms, activations, scales and their decomposed forms are light.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Size
from pruneopt.analysis.flow import END, Flow
from pruneopt.analysis.infer import Analysis

ADDITIONS = ("Add", "Sum")
Shape = tuple[Size, ...]


@dataclass(frozen=True)
class Join:
    """An Add of two data tensors of its own size.

    Attributes:
        total: the sum.
        entry: the tensor of the stream that takes the sum's place when the branch goes; where the addends are
            no stream and branch, the tensor that both come from.
        branch: the addend that is no stream; empty where both addends were computed anew (a downsampling shortcut).
        skip: the addend that is stream.
    """

    total: str
    entry: str
    branch: str = ""
    skip: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether a branch of zeros leaves the entry as it is."""
        return self.skip == self.entry


class Stream:
    """The residual streams of an analysed graph: its joins, and the light steps before and behind them.

    Attributes:
        joins: sum -> join, in graph order.
        points: tensors that a branch starts at, or that a branch is added to.
    """

    def __init__(self, analysis: Analysis, flow: Flow) -> None:
        self.flow = flow
        self.shapes = analysis.seen.shapes
        self._inputs = analysis.model.graph.inputs
        heavy = {id(node) for node, _ in analysis.macs}
        self.heavy = flow.made(i for i, node in enumerate(flow.nodes) if id(node) in heavy)
        heavy |= {id(use.node) for use in analysis.statistics}
        self.working = flow.made(i for i, node in enumerate(flow.nodes) if id(node) in heavy)
        self.joins: dict[str, Join] = {}
        self.points: set[str] = set()
        for total, addends in self._sums():
            self._add(total, *addends)

    def back(self, name: str) -> str | None:
        """The stream's tensor one light step before `name`, or what a branch was added to there."""
        join = self.joins.get(name)
        if join is not None:
            return join.entry if join.branch else None
        earlier = self.flow.dominator[name]
        return earlier if self._is_light(earlier, name) else None

    def onward(self, name: str) -> str | None:
        """The tensor one light step behind `name`."""
        later = self.flow.follower[name]
        return later if later not in self.joins and self._is_light(name, later) else None

    def tail(self, name: str) -> Iterator[str]:
        """The tensors that light steps lead to from `name` on, in order."""
        at = self.onward(name)
        while at is not None:
            yield at
            at = self.onward(at)

    def op(self, name: str) -> str:
        """The op that makes a tensor."""
        return str(self.flow.nodes[self.flow.maker[name]].op)

    def shape(self, name: str) -> Shape | None:
        """Sizes of a tensor in all runs."""
        return self.shapes.get(name)

    def kind(self, name: str) -> Any:
        """Element type of a tensor as far as a constant, a Cast or an input on its way tells it."""
        while name in self.flow.maker:
            node = self.flow.nodes[self.flow.maker[name]]
            if node.op == "Cast":
                return onnx.helper.tensor_dtype_to_np_dtype(node.attrs["to"])
            for tensor in node.inputs:
                if (
                    isinstance(tensor, gs.Constant)
                    and tensor.dtype is not None
                    and np.dtype(tensor.dtype).kind in "fV"
                ):
                    return np.dtype(tensor.dtype)
            sources = self.flow.sources(name)
            if not sources:
                return None
            name = sources[0]
        found = next((t.dtype for t in self._inputs if t.name == name), None)
        return None if found is None else np.dtype(found)

    def _is_light(self, first: str, last: str) -> bool:
        """Whether all that lies between two tensors, of which the first dominates the last, is light."""
        if END in (first, last) or self.shape(first) is None or self.shape(first) != self.shape(last):
            return False
        return self.flow.reaches(first, last) and not self.flow.between(first, last) & self.heavy

    def _changes_type(self, name: str) -> bool:
        return name in self.flow.maker and self.op(name) == "Cast"

    def _sums(self) -> Iterator[tuple[str, list[str]]]:
        for node in self.flow.nodes:
            if node.op not in ADDITIONS or len(node.inputs) != 2:
                continue
            total, addends = node.outputs[0].name, [t.name for t in node.inputs]
            same = {self.shape(name) for name in (total, *addends)}
            if all(name in self.flow.bit for name in addends) and len(same) == 1 and None not in same:
                yield total, addends

    def _add(self, total: str, a: str, b: str) -> None:
        found = [
            (*walked, branch) for skip, branch in ((a, b), (b, a)) if (walked := self._walk(skip, branch))
        ]
        if found:
            _, entry, start, branch = min(found)
            if not self._is_branch(start, total, entry, branch):
                return
            join = Join(total, entry, branch, skip=b if branch == a else a)
            self.points.add(join.skip)
        else:
            join = Join(total, self.flow.dominator[total])
        self.joins[total] = join
        if join.entry != END:
            self.points.add(join.entry)

    def _is_branch(self, start: str, total: str, entry: str, branch: str) -> bool:
        """Whether work goes when the branch goes, and no other stream runs through it that stays.

        A rotation or a gate does no work. A bias that all attentions share reaches the scores of a later one
        through the stream itself: these are no branch of the bias.
        """
        inside, dead = self.flow.between(start, branch), self._dead(total, entry)
        totals = sum(self.flow.bit[name] for name, join in self.joins.items() if join.branch)
        return bool(inside & self.working & dead) and not inside & totals & ~dead

    def _dead(self, total: str, entry: str) -> int:
        """What nobody needs for the outputs behind `total` when `entry` takes its place."""
        flow = self.flow
        behind = [n for n in flow.outputs if n in flow.bit and flow.reaches(total, n)]
        alive = flow.alive({total: entry}, behind)
        return flow.made(i for i in range(len(flow.nodes)) if i not in alive)

    def _walk(self, skip: str, branch: str) -> tuple[int, str, str] | None:
        """(light steps from `skip` back to where `branch` starts, what takes the sum's place, the start)."""
        at: str | None = skip
        entry, steps = "", 0
        while at is not None:
            starts = self.flow.reaches(at, branch)
            if not entry and (starts or at in self.joins or self._changes_type(at)):
                entry = at  # what another branch was added to is stream, wherever this branch starts
            if starts:
                return steps, entry, at
            at, steps = self.back(at), steps + 1
        return None
