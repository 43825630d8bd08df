"""The command line. Tables and progress go to stderr, `--json` to stdout; exit 0 done, 1 could not, 2 usage."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pruneopt import api
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.recipes_command import recipes
from pruneopt.tune_command import print_kernels, tune, tuned

if TYPE_CHECKING:
    from rich.console import Console


class Commands(click.Group):
    """A group whose first argument may be a model instead of a command: then it is `prune`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert `prune` where no command is named."""
        flags = {"--help", "--version"}
        if args and args[0] not in self.commands and args[0] not in flags:
            args = ["prune", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The default command first."""
        formatter.write_usage("pruneopt", "MODEL -o OUT [OPTIONS]  |  COMMAND ...")


@click.group(cls=Commands)
@click.version_option(package_name="pruneopt")
def cli() -> None:
    """Make a trained model physically smaller and prove the rewrite right.

    \b
    pruneopt model.onnx -o out.onnx --macs 0.5    halve the multiply-accumulates
    pruneopt inspect model.onnx                   what can be removed, and why the rest cannot
    pruneopt compare model.onnx out.onnx          size, cost, latency, fidelity
    pruneopt tune sparse.onnx -o out.onnx         kernels that make sparse weights fast
    pruneopt recipes                              published methods, for --recipe
    """


class Share(click.ParamType):  # type: ignore[type-arg]
    """A share to keep."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """A number in (0, 1]."""
        try:
            share = float(value)
        except ValueError:
            self.fail(f"'{value}' is not a number", param, ctx)
        if not 0 < share <= 1:
            self.fail(f"{value} is not in (0, 1]; it is the share to keep", param, ctx)
        return share


SHARE = Share()
JSON = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout.")
CALIB = click.option("--calib", metavar="FILE.npz|DIR|MODULE:FUNCTION", help="Real inputs.")
THREADS = click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of the runtime."
)
SEED = click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
KEEP = click.option(
    "--keep", multiple=True, metavar="PATTERN", help="Tensors or nodes that must not change; repeatable."
)
MODEL = click.argument("model", metavar="MODEL")


@cli.command()
@MODEL
@click.option("-o", "--output", "out", required=True, metavar="OUT", help="Where the smaller model goes.")
@click.option("--macs", type=SHARE, help="Share of the multiply-accumulates to keep.")
@click.option("--params", type=SHARE, help="Share of the parameters to keep.")
@click.option("--bytes", "bytes_", type=SHARE, help="Share of the weights' bytes to keep.")
@click.option("--latency", type=SHARE, help="Share of the measured latency to keep, with --threads.")
@click.option("--memory", type=SHARE, help="Share of the peak of activation memory to keep.")
@click.option("--axes", metavar="A", help="What budgets are spent on, of depth+length+width [width].")
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
@click.option("-q", "--quiet", is_flag=True, help="No table, no progress.")
@click.option("-v", "--verbose", is_flag=True, help="Progress as lines, and every group.")
def prune(
    model: str,
    out: str,
    macs: float | None,
    params: float | None,
    bytes_: float | None,
    latency: float | None,
    memory: float | None,
    axes: str | None,
    tolerance: float | None,
    sparsity: float | None,
    pattern: str | None,
    target: str | None,
    passes: str | None,
    recipe: str | None,
    calib: str | None,
    labels: Sequence[str],
    keep: Sequence[str],
    threads: int,
    seed: int,
    report: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Prune MODEL and write the result to OUT. This is what runs when no command is named."""
    _limit_threads(threads)  # before NumPy is imported
    from pruneopt.frontends.saving import check_target
    from pruneopt.report import print_table, to_json, write_report

    console = _console(quiet)
    with _Progress(console, verbose) as progress:
        loaded = api.load(model)
        check_target(loaded, Path(out).resolve(), None)
        if report:
            _check_report(Path(report))
        if recipe is not None:
            from pruneopt.passes.recipes import recipe_passes

            if passes is not None or tolerance is not None:
                raise UsageError("give --recipe, --passes or --tolerance, not several of them")
            shares = {"macs": macs, "params": params, "bytes": bytes_, "latency": latency, "memory": memory}
            passes = recipe_passes(recipe, shares | {"sparsity": sparsity, "pattern": pattern})
            macs = params = bytes_ = latency = memory = sparsity = pattern = None
        result = api.prune(
            loaded,
            macs=macs,
            params=params,
            bytes=bytes_,
            latency=latency,
            memory=memory,
            axes=axes,
            tolerance=tolerance,
            sparsity=sparsity,
            pattern=pattern,
            target=target,
            passes=passes,
            calib=calib,
            labels=labels,
            keep=keep,
            threads=threads,
            seed=seed,
            progress=progress,
        )
        if target is None:
            result.model.save(out)
        else:
            result.report["tune"] = tuned(result.model, out, target, threads, calib, progress)
    if report:
        write_report(result.report, Path(report))
    print_table(result.report, console)
    if target is not None:
        print_kernels(result.report["tune"], console)
    if verbose:
        for group in result.report.get("groups", []):
            console.print(f"{group['kept']:>6} of {group['size']:<6} {group['name']}", highlight=False)
    if as_json:
        click.echo(to_json(result.report))


@cli.command()
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


@cli.command()
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
    print_table(report, _console(False))
    if as_json:
        click.echo(to_json(report))


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


def _limit_threads(threads: int) -> None:
    """Linear algebra uses as many threads as the runtime: more of them on a busy machine are much slower."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))


def _check_report(path: Path) -> None:
    if path.suffix not in (".json", ".html"):
        raise UsageError(f"the report '{path}' must end in .html or .json")
    if path.suffix == ".html":
        from pruneopt.page import need_jinja

        need_jinja()  # now, not after the work is done
    if not path.parent.is_dir() or path.is_dir():
        raise PruneoptError(f"the report cannot be written to '{path}': no such folder, or it is one")


def _console(quiet: bool) -> Console:
    from rich.console import Console

    return Console(stderr=True, quiet=quiet)


class _Progress:
    """What is being done: one changing line on a terminal, lines with `-v`, nothing elsewhere."""

    def __init__(self, console: Console, verbose: bool) -> None:
        self.console = console
        self.verbose = verbose
        self.status = console.status("load")

    def __enter__(self) -> _Progress:
        if self.console.is_terminal and not self.verbose:
            self.status.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.status.stop()

    def __call__(self, text: str) -> None:
        if self.verbose:
            self.console.print(text, highlight=False)
        self.status.update(text)


cli.add_command(tune)
cli.add_command(recipes)


def main(args: list[str] | None = None) -> int:
    """Run the command line; one clear sentence for what goes wrong."""
    try:
        cli.main(args=args, prog_name="pruneopt", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"pruneopt: {error.format_message()}", err=True)
        return error.exit_code
    except click.Abort:
        click.echo("pruneopt: interrupted; nothing was written", err=True)
        return 130
    except PruneoptError as error:
        click.echo(f"pruneopt: {error}", err=True)
        if "--json" in (sys.argv[1:] if args is None else args):
            click.echo(json.dumps({"error": str(error), **error.details}, indent=2))
        return error.exit_code
    return 0
