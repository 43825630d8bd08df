"""The command `pruneopt inspect`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from pruneopt import api
from pruneopt.commands.options import JSON, KEEP, MODEL

if TYPE_CHECKING:
    from rich.console import Console


@click.command()
@MODEL
@click.option("--explain", metavar="TENSOR:AXIS", help="Follow one axis through the graph.")
@KEEP
@JSON
def inspect(model: str, explain: str | None, keep: Sequence[str], as_json: bool) -> None:
    """What can be removed from MODEL, and why the rest cannot."""
    from pruneopt.analysis.explain import explain as follow

    found = api.inspect(api.load(model), keep)
    if explain:
        lines = follow(found.analysis, explain)
        click.echo(json.dumps(lines, indent=2) if as_json else "\n".join(lines))
    elif as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
    else:
        _print_inspection(found.as_dict())


def _print_inspection(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=None, pad_edge=False)
    for heading in ("group", "size", "params", "MACs", "tensors", ""):
        table.add_column(heading, overflow="fold")
    for group in found["groups"]:
        shares = f"{group['params']:.1%}", f"{group['macs']:.1%}"
        coupled = "coupled" if group["coupled"] else ""
        table.add_row(group["name"], str(group["size"]), *shares, str(len(group["tensors"])), coupled)
    console.print(table)
    console.print(
        f"\n{found['prunable_share']:.1%} of the parameters can shrink. What cannot:", highlight=False
    )
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for entry in found["frozen"]:
        by_reason.setdefault(entry["why"], []).append(entry)
    for why, entries in by_reason.items():
        tensors = [tensor for entry in entries for tensor in entry["tensors"]]
        nodes = list(dict.fromkeys(entry["node"] for entry in entries if entry["node"]))
        where = f" at {nodes[0]}" + (f" and {len(nodes) - 1} more" if len(nodes) > 1 else "") if nodes else ""
        line = f"  {why}{where}: {', '.join(tensors[:3])}" + (
            f" and {len(tensors) - 3} more" if len(tensors) > 3 else ""
        )
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    _print_blocks(found["blocks"], console)


def _print_blocks(blocks: list[dict[str, Any]], console: Console) -> None:
    """What `depth{blocks=...}` takes by name, sub-layers below their layer."""
    from rich.table import Table

    if not blocks:
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("block", "params", "MACs", "from", "to", ""):
        table.add_column(heading, overflow="fold")
    for block in sorted(blocks, key=lambda b: [int(n) for n in re.findall(r"\d+", b["name"])]):
        note = block["refused"] or (f"with output '{block['outputs'][0]}'" if block["outputs"] else "")
        shares = f"{block['params']:.1%}", f"{block['macs']:.1%}"
        table.add_row(block["name"], *shares, block["entry"], block["exit"], note)
    console.print("\nBlocks that lead from a residual stream back to it:", highlight=False)
    console.print(table)
