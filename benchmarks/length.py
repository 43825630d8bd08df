"""`python -m benchmarks.length FOLDER [--passes SPEC...] [--tokens N]`: fewer tokens, model by model.

For each model of a folder (or files) and each pass: sites, tokens at the end, multiply-accumulates, latency
ratio, and how far the rewritten model is from the full-length original that the claim masks. Latency is CPU
time of one thread, the models in turns, so that other work on the machine matters little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pruneopt.analysis.cost import CostModel
from pruneopt.analysis.infer import analyse
from pruneopt.api import make_context
from pruneopt.backends.session import Session
from pruneopt.errors import PruneoptError
from pruneopt.frontends.dimensions import dynamic_dims
from pruneopt.frontends.synthetic import synthetic
from pruneopt.model import Model
from pruneopt.passes.base import Outcome
from pruneopt.passes.context import Context
from pruneopt.passes.proof import prove
from pruneopt.passes.simplify import Simplify
from pruneopt.passes.spec import parse_passes

SPECS = ("length{left=0.5, falling=true}", "length{r=8}", "length{keep=0.7, method=topk}")
COLUMNS = ("model", "pass", "sites", "tokens", "left", "MACs kept", "latency ratio", "error")
ROUNDS = 9


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="FOLDER|FILE")
    parser.add_argument("--passes", nargs="+", default=SPECS, metavar="SPEC")
    parser.add_argument("--tokens", type=int, default=384, help="length of sequences that may have any [384]")
    args = parser.parse_args()
    print("|", " | ".join(COLUMNS), "|\n|" + "---|" * len(COLUMNS))
    for path in _files(args.models):
        for row in rows(path, args.passes, args.tokens):
            print("|", " | ".join(row), "|", flush=True)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(path.glob("**/*.onnx")) if path.is_dir() else [path]


def rows(path: Path, specs: Sequence[str], tokens: int) -> Iterator[list[str]]:
    """One row for each pass."""
    try:
        model = Model.load(path)
        context = make_context(model)
        simple = Simplify().run(model, context).model
    except PruneoptError as error:
        yield [path.stem, "", *[""] * 5, str(error)]
        return
    for spec in specs:
        try:
            yield [path.stem, f"`{spec}`", *_figures(model, simple, context, spec, tokens)]
        except PruneoptError as error:
            yield [path.stem, f"`{spec}`", *[""] * 5, str(error).replace("|", "\\|")]


def _figures(model: Model, simple: Model, context: Context, spec: str, tokens: int) -> list[str]:
    outcome: Outcome = parse_passes(spec)[0].run(simple, context)
    assert outcome.claim is not None
    error = prove(outcome.model, outcome.claim, context).max_rel_error
    sites = outcome.entry["sites"]
    ratio = cpu_ratio(model, outcome.model, _feeds(model, tokens))
    macs = _macs(outcome.model, context) / _macs(simple, context)
    before = "+".join(str(s["tokens"][-1]) for s in sites)
    after = "+".join(str(s["stages"][-1]["left"][-1]) for s in sites)
    return [
        str(sum(len(s["stages"]) for s in sites)), before, after, f"{macs:.2f}", f"{ratio:.2f}", f"{error:.0e}"
    ]  # fmt: skip


def _macs(model: Model, context: Context) -> int:
    return CostModel(analyse(model, context.observation(model)), -1).macs({})


def _feeds(model: Model, tokens: int) -> dict[str, Any]:
    """One sample, sequences of `tokens`."""
    dims = dynamic_dims(model)
    sizes = {key: 1 if any(axis == 0 for _, axis in places) else tokens for key, places in dims.items()}
    return dict(synthetic(model, sizes))


def cpu_ratio(a: Model, b: Model, feeds: dict[str, Any]) -> float:
    """CPU time of `b` as a share of that of `a`: the median over rounds in turns."""
    sessions = [Session(a, timed=True), Session(b, timed=True)]
    for session in sessions:
        session.run(feeds)
    ratios = []
    for _ in range(ROUNDS):
        spent = []
        for session in sessions:
            begin = time.process_time()
            session.run(feeds)
            spent.append(time.process_time() - begin)
        ratios.append(spent[1] / max(spent[0], 1e-9))
    return float(np.round(statistics.median(ratios), 4))


if __name__ == "__main__":
    main()
