"""The command `pruneopt compare`."""

from __future__ import annotations

import click

from pruneopt import api
from pruneopt.commands.console import console
from pruneopt.commands.options import CALIB, JSON, SEED, THREADS


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@CALIB
@THREADS
@SEED
@JSON
def compare(a: str, b: str, calib: str | None, threads: int, seed: int, as_json: bool) -> None:
    """Size, cost, latency and fidelity of model B against model A."""
    from pruneopt.report import print_table, to_json

    report = api.compare(api.load(a), api.load(b), calib=calib, threads=threads, seed=seed)
    print_table(report, console(False))
    if as_json:
        click.echo(to_json(report))
