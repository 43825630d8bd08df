"""The command `pruneopt recipes`."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict

import click

from pruneopt.commands.options import JSON


@click.command()
@click.argument("name", metavar="[NAME|FILE.yaml]", required=False)
@JSON
def recipes(name: str | None, as_json: bool) -> None:
    """Published methods by name, for --recipe; with NAME, all that is known of one."""
    from pruneopt.passes.recipes import find_recipe
    from pruneopt.passes.recipes import recipes as all_recipes

    found = [find_recipe(name)] if name else all_recipes()
    if as_json:
        click.echo(json.dumps([asdict(recipe) for recipe in found], indent=2))
    elif name:
        for key, value in asdict(found[0]).items():
            if value:
                click.echo(textwrap.fill(f"{key + ':':9} {value}", 100, subsequent_indent=" " * 10))
    else:
        for recipe in found:
            click.echo(f"{recipe.name:14} {recipe.needs:9} {recipe.title}")
