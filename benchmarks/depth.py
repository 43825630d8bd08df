"""`python -m benchmarks.depth FOLDER_OR_FILE...`: blocks found, a random subset removed by name, compared outside.

The reference is the original file with nothing removed, in which each dropped block's exit is renamed and an
Identity of its entry put in its place; both files run in ONNX Runtime with none of pruneopt's code.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import pruneopt as po
from benchmarks.check import load
from benchmarks.inputs import feeds, working_sizes

COLUMNS = ("model", "layers", "parts", "in blocks", "removed", "MACs kept", "max error", "note")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.depth", description=__doc__)
    parser.add_argument("places", nargs="+", type=Path, metavar="FOLDER_OR_FILE")
    parser.add_argument("--tries", type=int, default=1, help="random subsets for each model [1]")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def files(places: list[Path]) -> Iterator[Path]:
    """The ONNX files in the order given, those of a folder sorted by size."""
    for place in places:
        yield from (
            sorted(place.rglob("*.onnx"), key=lambda p: p.stat().st_size) if place.is_dir() else [place]
        )


def rows(path: Path, tries: int, seed: int) -> Iterator[list[str]]:
    """A line per subset, or one that says why there is none."""
    try:
        model = po.load(path)
        blocks = [b for b in po.inspect(model).blocks() if not b["refused"] and not b["outputs"]]
    except po.PruneoptError as error:
        yield [path.stem, *["-"] * 6, str(error)]
        return
    layers = [b["name"] for b in blocks if "." not in b["name"]]
    share = sum(b["macs"] for b in blocks if b["name"].startswith("layer") and "." not in b["name"])
    head = [path.stem, str(len(layers)), str(len(blocks) - len(layers)), f"{share:.2f}"]
    if not blocks:
        yield [*head, *["-"] * 3, "no residual block"]
        return
    rng = random.Random(f"{seed} {path.name}")
    for _ in range(tries):
        names = [b["name"] for b in blocks]
        chosen = sorted(rng.sample(names, rng.randint(1, len(names))))
        yield [*head, str(len(chosen)), *removed(path, model, chosen)]


def removed(path: Path, model: po.Model, chosen: list[str]) -> list[str]:
    """MACs kept, largest relative error against the reference, and what went wrong."""
    try:
        result = po.prune(model, passes=f"depth{{blocks={'+'.join(chosen)}}}", timed=False)
    except po.PruneoptError as error:
        return ["-", "-", str(error)]
    kept = result.report["output"]["macs"] / result.report["input"]["macs"]
    entry = next(p for p in result.report["passes"] if p["pass"] == "depth")
    with tempfile.TemporaryDirectory() as folder:
        small, whole = Path(folder, "small.onnx"), Path(folder, "whole.onnx")
        result.model.save(small)
        try:
            onnx.save(bypassed(onnx.load(path), {b["exit"]: b["entry"] for b in entry["dropped"]}), whole)
        except KeyError as error:
            return [f"{kept:.2f}", "-", f"{error} is no tensor of the file"]
        return [f"{kept:.2f}", f"{difference(whole, small):.0e}", ""]


def bypassed(proto: onnx.ModelProto, around: dict[str, str]) -> onnx.ModelProto:
    """The model with each key computed under another name and its value read instead. Raises KeyError."""
    nodes, missing = [], set(around)
    for node in proto.graph.node:
        nodes.append(node)
        for i, name in enumerate(node.output):
            if name in around:
                missing.discard(name)
                node.output[i] = f"{name}//whole"
                nodes.append(onnx.helper.make_node("Identity", [around[name]], [name]))
    if missing:
        raise KeyError(min(missing))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


def difference(whole: Path, small: Path) -> float:
    """Largest difference of an output, as a share of its largest magnitude, at two sizes."""
    first, second = load(str(whole)), load(str(small))
    worst = 0.0
    for size in working_sizes(first):
        batch = feeds(first, size)
        for a, b in zip(first.run(None, batch), second.run(None, batch), strict=True):
            worst = max(worst, _error(a, b))
    return worst


def _error(a: Any, b: Any) -> float:
    if not isinstance(a, np.ndarray) or a.dtype.kind != "f":
        return float(not np.array_equal(a, b))
    return float(np.abs(a.astype(np.float64) - b).max() / max(np.abs(a).max(), 1e-30)) if a.size else 0.0


def main() -> None:
    """Print the table, a line as soon as it is known."""
    options = arguments()
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}", flush=True)
    failed = 0
    for path in files(options.places):
        for row in rows(path, options.tries, options.seed):
            print(f"| {' | '.join(row)} |", flush=True)
            failed += row[6] not in ("-",) and not float(row[6]) <= 1e-5
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
