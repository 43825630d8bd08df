"""The command `pruneopt tune`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from pruneopt import api
from pruneopt.commands.console import Progress, console, limit_threads
from pruneopt.commands.options import JSON, MODEL, QUIET, THREADS, VERBOSE
from pruneopt.errors import UsageError

if TYPE_CHECKING:
    from pruneopt.model import Model


@click.command()
@MODEL
@click.option("-o", "--output", "out", required=True, metavar="OUT.onnx", help="Where the model goes.")
@click.option("--target", default="host", show_default=True, help="host, or such as 'llvm -mcpu=znver3'.")
@THREADS
@click.option(
    "--trials", type=click.IntRange(1), default=8, show_default=True, help="Schedules for each shape."
)
@click.option(
    "--size", "sizes", multiple=True, metavar="DIM=N", help="A dynamic dimension to tune for; repeatable."
)
@click.option("--calib", metavar="FILE.npz|DIR|MODULE:FUNCTION", help="Real inputs to tune for.")
@click.option("--fallback", is_flag=True, help="Let the model run without the library, too, at dense speed.")
@click.option("--gate/--no-gate", default=True, help="Keep dense what is faster dense in the whole model.")
@click.option("--tracker", metavar="HOST:PORT", help="TVM's RPC tracker, for a board to measure on.")
@click.option("--key", help="The key of the board at the tracker.")
@JSON
@QUIET
@VERBOSE
def tune(
    model: str,
    threads: int,
    sizes: Sequence[str],
    calib: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **asked: Any,
) -> None:
    """Make MODEL's sparse weights fast: kernels compiled and tuned for the target.

    Writes OUT.onnx and OUT.kernels.so; `pruneopt.runtime.session` opens both. An output that ends in .so is the
    whole model as one library for TVM's Relax machine instead, without ONNX Runtime, for inputs of one size. What was
    measured is kept in the cache folder: an interrupted run goes on where it was, and equal layers are never tuned
    twice.
    """
    limit_threads(threads)
    given = dict(map(_size, sizes))
    screen = console(quiet)
    with Progress(screen, verbose) as progress:
        report = tuned(api.load(model), calib, progress, threads=threads, sizes=given, **asked)
    print_kernels(report, screen)
    if as_json:
        click.echo(json.dumps(report, indent=2))


def _size(text: str) -> tuple[str, int]:
    name, equals, number = text.rpartition("=")
    if not equals or not number.isdigit() or not int(number):
        raise UsageError(f"--size {text} is not of the form DIM=N, such as tokens=128")
    return name, int(number)


def tuned(model: Model, calib: str | None, tell: Progress, **asked: Any) -> dict[str, Any]:
    """Writes a model with kernels for its sparse weights, as `pruneopt.tune.tune` does; its report."""
    from pruneopt.frontends.calibration import load_calibration
    from pruneopt.tune import tune as run

    feeds = load_calibration(calib, model) if calib else ()
    return run(model, calib=feeds, tell=tell, **asked)


def print_kernels(report: dict[str, Any], screen: Any) -> None:
    """One line for each kernel."""
    for row in report["kernels"]:
        layers = row["layers"]
        more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
        gain = (
            f", whole model {row['model_gain']:.2f}x" if row["model_gain"] else ""
        )  # not measured without a gate
        verdict = f"{row['us']:.0f} us{gain}" if row["kept"] else "faster dense"
        shape = "x".join(map(str, row["shape"]))
        screen.print(f"{layers[0]}{more} ({shape}, {row['density']:.0%} kept): {verdict}", highlight=False)
    before, after = report["bytes_before"], report["bytes_after"]
    screen.print(
        f"{before / 1e6:.1f} MB -> {after / 1e6:.1f} MB, library {report['library']}", highlight=False
    )
