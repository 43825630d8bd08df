"""`python -m benchmarks.large [FOLDER]`: time and memory on large models, next to copying their files.

Two models are written to the folder: 2.4 GB of weights in a file beside the model, and a GPT-2-sized one of 12 layers
and 50257 words. In turns, the files are copied (to disk: `sync` counts, as the result of pruning is on disk, too) and
pruned to half of the MACs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import onnx

from benchmarks.isolated import run
from benchmarks.stacked import transformer

ROUNDS = 5
MODELS = {  # about 2.4 and 0.5 GB
    "large": {"blocks": 8, "width": 2560, "heads": 20, "neurons": 10240},
    "gpt2": {"blocks": 12, "width": 768, "heads": 12, "neurons": 3072, "words": 50257},
}


def write(name: str, folder: Path) -> Path:
    """The model in a file, its weights beside it; written by another process, so that ours stays small.

    A child starts with its parent's memory, and that would count as its own.
    """
    path = folder / f"{name}.onnx"
    if not path.exists():
        writer = multiprocessing.get_context("spawn").Process(target=_save, args=(name, path))
        writer.start()
        writer.join()
    return path


def _save(name: str, path: Path) -> None:
    onnx.save(transformer(**MODELS[name]), path, save_as_external_data=True, location=f"{path.name}.data")


def copied(path: Path, folder: Path) -> tuple[float, float]:
    """Seconds to copy a model's weights, and to copy them to disk."""
    target = folder / "copy.data"
    begin = time.perf_counter()
    shutil.copyfile(path.with_name(path.name + ".data"), target)
    cached = time.perf_counter() - begin
    with open(target, "rb") as file:
        os.fsync(file.fileno())
    seconds = time.perf_counter() - begin
    target.unlink()
    return cached, seconds


def measure(path: Path, folder: Path) -> str:
    """A row of the table."""
    out = folder / "small.onnx"
    rows: list[tuple[float, float, float, float]] = []
    for _ in range(ROUNDS):
        cached, stored = copied(path, folder)
        command = [sys.executable, "-m", "pruneopt", str(path), "-o", str(out), "--macs", "0.5", "-q"]
        pruned = run(command, 600)
        if pruned.code:
            raise SystemExit(pruned.last_words)
        rows.append((cached, stored, pruned.seconds, pruned.peak_mb))
    gigabytes = path.with_name(path.name + ".data").stat().st_size / 1e9
    cached, stored, seconds, peak = (statistics.median(column) for column in zip(*rows, strict=True))
    ratio = statistics.median(row[2] / row[1] for row in rows)
    return (
        f"| {path.stem} | {gigabytes:.2f} | {cached:.2f} | {stored:.2f} | {seconds:.2f} | {ratio:.2f} "
        f"| {peak / 1000:.2f} |"
    )


def main() -> None:
    """Write the models, measure, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="where the models are kept; 5 GB")
    given = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        folder = given or Path(temporary)
        print(
            "| model | GB | copy, cached (s) | copy to disk (s) | pruneopt (s) | times copy to disk | peak GB |"
        )
        print("|---|---|---|---|---|---|---|")
        for name in MODELS:
            print(measure(write(name, folder), folder), flush=True)


if __name__ == "__main__":
    main()
