"""Recipes: published methods by name, as files beside this one. `--recipe spp --macs 0.7`, `pruneopt recipes`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pruneopt.errors import UsageError
from pruneopt.passes.recipes.recipe import Recipe, read_recipe

HERE = Path(__file__).resolve().parent


def recipes() -> list[Recipe]:
    """All that ship, by name."""
    return [read_recipe(path) for path in sorted(HERE.glob("*.yaml"))]


def find_recipe(spec: str) -> Recipe:
    """The recipe of that name, or in that .yaml file. Raises UsageError where there is none."""
    if spec.endswith((".yaml", ".yml")):
        return read_recipe(Path(spec))
    known = {path.stem: path for path in sorted(HERE.glob("*.yaml"))}
    if spec not in known:
        raise UsageError(f"there is no recipe '{spec}'; choose from {', '.join(known)}, or give a .yaml file")
    return read_recipe(known[spec])


def recipe_passes(spec: str, budget: Mapping[str, object]) -> str:
    """The passes of `NAME`, `NAME{option=value, ...}` or a file with the budgets that are not None, as text.

    Options in braces go to the pass that takes the budget.
    """
    name, brace, options = spec.partition("{")
    if brace and not options.rstrip().endswith("}"):
        raise UsageError(f"cannot read the recipe '{spec}'; write it as 'name{{option=value}}'")
    given = {key: value for key, value in budget.items() if value is not None}
    return find_recipe(name.strip()).text(given, options.rstrip().removesuffix("}").strip())
