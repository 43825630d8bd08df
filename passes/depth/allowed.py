"""Which blocks may go, and what stands against the others."""

from __future__ import annotations

from fnmatch import fnmatchcase

from pruneopt.analysis.blocks import Block, Blocks
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.passes.context import Context


def objection(block: Block, blocks: Blocks, context: Context, cache: bool) -> str:
    """Why a block has to stay, or nothing. With `cache`, outputs that it makes beside its exit may go, too."""
    if block.refused:
        return block.refused
    if block.sides and not cache:
        return f"it makes the model's output '{block.sides[0]}'; cache=true lets that go, too"
    kept = [n for n in blocks.names(block) for pattern in context.keep if fnmatchcase(n, pattern)]
    return f"'{kept[0]}' is kept as asked" if kept else ""


def named(names: str, blocks: Blocks, context: Context, cache: bool) -> list[Block]:
    """The blocks of these names, joined by `+`.

    Raises:
        UsageError: there is no block of that name.
        PruneoptError: one has to stay.
    """
    known = {b.name: b for b in blocks.all()}
    found = []
    for name in names.split("+"):
        if name not in known:
            raise UsageError(f"depth: there is no block '{name}'; there are {', '.join(known) or 'none'}")
        if why := objection(known[name], blocks, context, cache):
            raise PruneoptError(f"depth: {name} cannot go: {why}")
        found.append(known[name])
    return list(dict.fromkeys(found))
