"""A recipe: a published method as passes with its settings, its source, what it needs and what it reached."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from pruneopt.errors import PruneoptError, UsageError

BUDGET = "BUDGET"  # in the text of the passes: where a budget and further options go
NEEDS = ("nothing", "data", "labels", "training")
LINE = re.compile(r"([a-z]+):(?: (.*))?")


@dataclass(frozen=True)
class Recipe:
    """A named preset.

    Attributes:
        name: of the file.
        title: what it does, in a line.
        source: the paper.
        needs: `nothing`, `data` (inputs), `labels` or `training` (time and PyTorch).
        passes: their text, with `BUDGET` where the share to keep goes.
        budget: what stands for BUDGET where none is given.
        figures: what the paper reports, with where the number is from.
        differs: in what the passes are not the published method.
    """

    name: str
    title: str
    source: str
    needs: str
    passes: str
    budget: str
    figures: str = ""
    differs: str = ""

    def text(self, budget: Mapping[str, object], options: str = "") -> str:
        """The passes with a budget such as `{"macs": 0.5}` and further options of the pass that takes it."""
        given = ", ".join(f"{name}={value}" for name, value in budget.items())
        return self.passes.replace(BUDGET, ", ".join(filter(None, (given or self.budget, options))))


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file: YAML with one `key: value` to a line; a value may go on in indented lines.

    Raises PruneoptError saying which line is wrong, or what is missing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise PruneoptError(
            f"the recipe '{path}' cannot be read; `pruneopt recipes` lists those that ship"
        ) from None
    found: dict[str, str] = {}
    key = ""
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = LINE.fullmatch(line.rstrip())
        if match:
            key = match[1]
            found[key] = "" if match[2] in (None, ">") else _unquoted(match[2])
        elif line.startswith(" ") and key:
            found[key] = f"{found[key]} {line.strip()}".strip()
        else:
            raise PruneoptError(f"{path}, line {number}: write 'key: value', and indent what goes on")
    return _made(path, found)


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _made(path: Path, found: dict[str, str]) -> Recipe:
    known = {f.name for f in fields(Recipe)} - {"name"}
    needed = known - {"figures", "differs"}
    if unknown := sorted(set(found) - known):
        raise PruneoptError(f"{path}: a recipe has no '{unknown[0]}'; it has {', '.join(sorted(known))}")
    if missing := sorted(needed - {key for key, value in found.items() if value}):
        raise PruneoptError(f"{path}: the recipe lacks '{missing[0]}'")
    if found["needs"] not in NEEDS:
        raise UsageError(f"{path}: needs is '{found['needs']}', but must be one of {', '.join(NEEDS)}")
    return Recipe(path.stem, **found)
