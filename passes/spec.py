"""Passes as text: `width{macs=0.5, coupled=true}, verify`. Names and options come from the dataclasses."""

from __future__ import annotations

import re
import types
import typing
from dataclasses import fields
from typing import Any

from pruneopt.errors import UsageError
from pruneopt.passes.base import Pass
from pruneopt.passes.depth import Depth
from pruneopt.passes.embedding import Embedding
from pruneopt.passes.joint import Joint
from pruneopt.passes.learn import Learn
from pruneopt.passes.length import Length
from pruneopt.passes.lowrank import LowRank
from pruneopt.passes.merge import Merge
from pruneopt.passes.options import find_named
from pruneopt.passes.recover import Recover
from pruneopt.passes.repair import Repair
from pruneopt.passes.rotate import Rotate
from pruneopt.passes.simplify import Simplify
from pruneopt.passes.sparsify import Sparsify
from pruneopt.passes.unmerge import Unmerge
from pruneopt.passes.unshare import Unshare
from pruneopt.passes.untie import Untie
from pruneopt.passes.verify import Verify
from pruneopt.passes.width import Width

PASSES: dict[str, type[Any]] = {
    "simplify": Simplify,
    "unmerge": Unmerge,
    "unshare": Unshare,
    "untie": Untie,
    "width": Width,
    "depth": Depth,
    "length": Length,
    "learn": Learn,
    "joint": Joint,
    "rotate": Rotate,
    "repair": Repair,
    "recover": Recover,
    "merge": Merge,
    "sparsify": Sparsify,
    "lowrank": LowRank,
    "embedding": Embedding,
    "verify": Verify,
}
ITEM = re.compile(r"\s*([a-z_]+)\s*(?:\{([^{}]*)\})?\s*(,|$)")


def parse_passes(text: str) -> tuple[Pass, ...]:
    """The passes that `text` names, in order.

    Raises:
        UsageError: an unknown pass or option, or a value of the wrong type.
    """
    found: list[Pass] = []
    at = 0
    while at < len(text):
        item = ITEM.match(text, at)
        if item is None:
            raise UsageError(
                f"cannot read passes at '{text[at:]}'; write them as 'width{{ratio=0.5}}, verify'"
            )
        found.append(_make(item[1], item[2] or ""))
        at = item.end()
    if not found:
        raise UsageError("no pass is named; write them as 'width{ratio=0.5}, verify'")
    return tuple(found)


def _make(name: str, options: str) -> Pass:
    kind = find_named("pass", name, PASSES, "pruneopt.passes")
    types_of = typing.get_type_hints(kind)
    known = {f.name for f in fields(kind)}
    given = {}
    for option in filter(None, (o.strip() for o in options.split(","))):
        key, equals, value = (part.strip() for part in option.partition("="))
        if key not in known or not equals:
            choices = ", ".join(sorted(known)) or "no options"
            raise UsageError(f"pass '{name}' has no option '{option}'; it takes {choices}")
        given[key] = _value(name, key, value, types_of[key])
    made: Pass = kind(**given)
    return made


def _value(name: str, key: str, text: str, kind: Any) -> Any:
    if isinstance(kind, types.UnionType):
        kind = next(k for k in typing.get_args(kind) if k is not types.NoneType)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{name}: {key}={text} is neither true nor false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{name}: {key}={text} is not a number") from None
