"""Merging of layers (LaCo, arXiv 2402.11187): a kept layer takes the differences of the dropped ones behind it.

W <- W + sum of (W_j - W) over the dropped layers j. Layers are matched node by node from their exits back; what is
not of one build is left alone, and a merge is kept only where it helps on held-out data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.blocks import Block, Blocks, bypass_of
from pruneopt.arrays import Array
from pruneopt.model import values
from pruneopt.passes.depth.bypass import Amends, target
from pruneopt.passes.depth.judge import Judge

Place = tuple[int, int]  # of a node, and an input of it


def merge_layers(blocks: Blocks, dropped: Sequence[Block], judge: Judge) -> Amends:
    """The merges that help, in graph order."""
    found, best = Amends(), judge.damage(Amends())
    around = bypass_of(dropped)
    gone = {block.name for block in dropped}
    for base in (b for b in blocks.all() if b.name not in gone):
        rear = [b for b in dropped if target(b.exit, around) == base.exit]
        weights = merged(blocks, base, rear)
        if not weights:
            continue
        trial = Amends(weights={**found.weights, **weights})
        if (moved := judge.damage(trial)) < best:
            best, found = moved, trial
    return found


def merged(blocks: Blocks, base: Block, rear: Sequence[Block]) -> dict[Place, Array]:
    """New weights of `base`; nothing where a layer of `rear` is of another build."""
    pairs = [match(blocks, base, each) for each in rear]
    if not pairs or not all(pairs):
        return {}
    nodes = blocks.flow.nodes
    found: dict[Place, Array] = {}
    for place, slot in pairs[0]:
        own = values(nodes[place].inputs[slot]).astype(np.float64)
        others = [values(nodes[p[place, slot][0]].inputs[slot]).astype(np.float64) for p in pairs]
        found[place, slot] = own + sum((other - own for other in others), np.zeros_like(own))
    return found


def match(blocks: Blocks, a: Block, b: Block) -> dict[Place, Place]:
    """Where each floating-point constant of block `a` has its like in block `b`; nothing where they differ."""
    flow = blocks.flow
    found: dict[Place, Place] = {}
    queue, seen = [(a.exit, b.exit)], set()
    while queue:
        pair = queue.pop()
        if pair in seen or pair == (a.entry, b.entry) or pair[0] == pair[1]:
            continue
        seen.add(pair)
        if pair[0] not in flow.maker or pair[1] not in flow.maker:
            return {}
        first, second = (flow.maker[name] for name in pair)
        if not _alike(flow.nodes[first], flow.nodes[second]):
            return {}
        for slot, (x, y) in enumerate(zip(flow.nodes[first].inputs, flow.nodes[second].inputs, strict=True)):
            if isinstance(x, gs.Constant):
                if x is not y and x.dtype == y.dtype and np.dtype(x.dtype).kind in "fV":
                    found[first, slot] = second, slot
            elif x.name:
                queue.append((x.name, y.name))
    return found


def _alike(a: gs.Node, b: gs.Node) -> bool:
    """Whether two nodes do the same, to constants of the same shapes."""
    if (a.op, a.domain, len(a.inputs)) != (b.op, b.domain, len(b.inputs)) or dict(_plain(a)) != dict(
        _plain(b)
    ):
        return False
    pairs = list(zip(a.inputs, b.inputs, strict=True))
    if any(isinstance(x, gs.Constant) != isinstance(y, gs.Constant) for x, y in pairs):
        return False
    return all(tuple(x.shape) == tuple(y.shape) for x, y in pairs if isinstance(x, gs.Constant))


def _plain(node: gs.Node) -> Iterator[tuple[str, Any]]:
    for name, value in node.attrs.items():
        yield name, list(value) if isinstance(value, (list, tuple)) else str(value)
