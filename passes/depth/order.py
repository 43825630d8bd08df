"""Reordering: neighbouring layers of one build change places where that helps on held-out data.

With layers gone, those that are left meet other states than they were trained on; the order that was best for the
whole model need not be best for what is left. Layers change places by their weights, so that no edge moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pruneopt.analysis.blocks import Block, Blocks, bypass_of
from pruneopt.arrays import Array
from pruneopt.model import values
from pruneopt.passes.depth.bypass import Amends, target
from pruneopt.passes.depth.judge import Judge
from pruneopt.passes.depth.laco import Place, match


def reorder_layers(blocks: Blocks, dropped: Sequence[Block], judge: Judge) -> Amends:
    """One pass over the kept layers from the end: each exchange that helps is kept, so that a layer can move far."""
    found, best = Amends(), judge.damage(Amends())
    for first, second in reversed(list(neighbours(blocks, dropped))):
        weights = exchanged(blocks, first, second, found.weights)
        if not weights:
            continue
        trial = Amends(weights=weights)
        if (moved := judge.damage(trial)) < best:
            best, found = moved, trial
    return found


def neighbours(blocks: Blocks, dropped: Sequence[Block]) -> Iterator[tuple[Block, Block]]:
    """Kept layers that follow one another when the dropped blocks are gone."""
    around, gone = bypass_of(dropped), {block.name for block in dropped}
    kept = [layer for layer in blocks.layers if layer.name not in gone]
    by_exit = {layer.exit: layer for layer in kept}
    for layer in kept:
        before = by_exit.get(target(layer.entry, around))
        if before is not None:
            yield before, layer


def exchanged(
    blocks: Blocks, first: Block, second: Block, weights: Mapping[Place, Array]
) -> dict[Place, Array]:
    """`weights` with those of two layers exchanged; nothing where these are of different builds."""
    pairs = match(blocks, first, second)
    nodes = blocks.flow.nodes

    def now(place: Place) -> Array:
        return weights[place] if place in weights else values(nodes[place[0]].inputs[place[1]])

    swapped = {a: now(b) for a, b in pairs.items()} | {b: now(a) for a, b in pairs.items()}
    return {**weights, **swapped} if pairs else {}
