"""The command `pruneopt prune`, which runs when no command is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pruneopt import api
from pruneopt.commands.console import Progress, console, limit_threads
from pruneopt.commands.options import CALIB, JSON, KEEP, MODEL, QUIET, SEED, SHARE, THREADS, VERBOSE
from pruneopt.commands.tune import print_kernels, tuned
from pruneopt.errors import PruneoptError, UsageError

SHARES = (
    "macs",
    "params",
    "bytes",
    "latency",
    "memory",
    "sparsity",
    "pattern",
)  # what recipes spend themselves


@click.command()
@MODEL
@click.option("-o", "--output", "out", required=True, metavar="OUT", help="Where the smaller model goes.")
@click.option("--macs", type=SHARE, help="Share of the multiply-accumulates to keep.")
@click.option("--params", type=SHARE, help="Share of the parameters to keep.")
@click.option("--bytes", type=SHARE, help="Share of the weights' bytes to keep.")
@click.option("--latency", type=SHARE, help="Share of the measured latency to keep, with --threads.")
@click.option("--memory", type=SHARE, help="Share of the peak of activation memory to keep.")
@click.option(
    "--axes", metavar="A", help="What budgets or tolerance are spent on, of depth+length+width [width]."
)
@click.option(
    "--tolerance", type=float, metavar="E", help="Output distance to allow when no budget is given [0.01]."
)
@click.option("--sparsity", type=float, metavar="S", help="Share of the weights that become zero.")
@click.option(
    "--pattern",
    metavar="P",
    help="Where zeros may stand: unstructured, 16x1 (outputs x inputs), 2:4, 2:4x16.",
)
@click.option(
    "--target",
    metavar="TARGET",
    help="Also tune kernels for sparse weights: host, or as `pruneopt tune` takes. With --pattern and without "
    "--sparsity, --latency then says how many weights become zero.",
)
@click.option("--passes", metavar="SPEC", help="Passes to run instead, e.g. 'width{ratio=0.5,coupled=true}'.")
@click.option(
    "--recipe", metavar="NAME|FILE.yaml", help="A published method instead; `pruneopt recipes` lists them."
)
@CALIB
@click.option("--labels", multiple=True, metavar="NAME", help="Array of labels in --calib; repeatable.")
@KEEP
@THREADS
@SEED
@click.option(
    "--report", metavar="FILE.html|FILE.json", help="Also write the report there, to read or as data."
)
@JSON
@QUIET
@VERBOSE
def prune(
    model: str,
    out: str,
    target: str | None,
    recipe: str | None,
    calib: str | None,
    threads: int,
    report: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **asked: Any,
) -> None:
    """Prune MODEL and write the result to OUT. This is what runs when no command is named."""
    limit_threads(threads)  # before NumPy is imported
    from pruneopt.frontends.saving import check_target
    from pruneopt.report import print_table, to_json, write_report

    screen = console(quiet)
    with Progress(screen, verbose) as progress:
        loaded = api.load(model)
        check_target(loaded, Path(out).resolve(), None)
        if report:
            _check_report(Path(report))
        if recipe is not None:
            asked = _by_recipe(recipe, asked)
        result = api.prune(loaded, target=target, calib=calib, threads=threads, progress=progress, **asked)
        if target is None:
            result.model.save(out)
        else:
            result.report["tune"] = tuned(
                result.model, calib, progress, out=out, target=target, threads=threads
            )
    if report:
        write_report(result.report, Path(report))
    print_table(result.report, screen)
    if target is not None:
        print_kernels(result.report["tune"], screen)
    if verbose:
        for group in result.report.get("groups", []):
            screen.print(f"{group['kept']:>6} of {group['size']:<6} {group['name']}", highlight=False)
    if as_json:
        click.echo(to_json(result.report))


def _by_recipe(name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked of `api.prune`, with the shares given to the passes of a recipe."""
    from pruneopt.passes.recipes import recipe_passes

    if asked["passes"] is not None or asked["tolerance"] is not None:
        raise UsageError("give --recipe, --passes or --tolerance, not several of them")
    passes = recipe_passes(name, {share: asked[share] for share in SHARES})
    return {**asked, **dict.fromkeys(SHARES), "passes": passes}


def _check_report(path: Path) -> None:
    if path.suffix not in (".json", ".html"):
        raise UsageError(f"the report '{path}' must end in .html or .json")
    if path.suffix == ".html":
        from pruneopt.page import need_jinja

        need_jinja()  # now, not after the work is done
    if not path.parent.is_dir() or path.is_dir():
        raise PruneoptError(f"the report cannot be written to '{path}': no such folder, or it is one")
