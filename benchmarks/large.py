"""`python -m benchmarks.large [FOLDER]`: time and memory on large models, next to copying their files.

Two models are written to the folder: 2.4 GB of weights in a file beside the model, and a GPT-2-sized one of 12 layers
and 50257 words. In turns, the weights are copied and the model is pruned to half of the MACs; both end when what they
wrote is on disk. Once the file is read from disk ("cold"), once the system still holds it in memory ("warm").
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

from benchmarks.isolated import Ran, run
from benchmarks.stacked import transformer

ROUNDS = 3
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


def forget(path: Path) -> None:
    """Make the system read a file from disk the next time."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copied(data: Path, target: Path) -> float:
    """Seconds to copy a file to disk."""
    begin = time.perf_counter()
    shutil.copyfile(data, target)
    with open(target, "rb") as file:
        os.fsync(file.fileno())
    seconds = time.perf_counter() - begin
    target.unlink()
    return seconds


def pruned(path: Path, out: Path) -> Ran:
    """The command, run."""
    ran = run([sys.executable, "-m", "pruneopt", str(path), "-o", str(out), "--macs", "0.5", "-q"], 600)
    if ran.code:
        raise SystemExit(ran.last_words)
    return ran


def measure(path: Path, folder: Path, cold: bool) -> str:
    """A row of the table."""
    data = path.with_name(path.name + ".data")
    copies: list[float] = []
    runs: list[Ran] = []
    for _ in range(ROUNDS):
        if cold:
            forget(data)
        copies.append(copied(data, folder / "copy.data"))
        if cold:
            forget(data)
        runs.append(pruned(path, folder / "small.onnx"))
    ratio = statistics.median(ran.seconds / copy for ran, copy in zip(runs, copies, strict=True))
    size, peak = data.stat().st_size / 1e9, max(ran.peak_mb for ran in runs) / 1000
    seconds, cpu = (statistics.median(getattr(ran, name) for ran in runs) for name in ("seconds", "cpu"))
    return (
        f"| {path.stem}, {'cold' if cold else 'warm'} | {size:.2f} | {statistics.median(copies):.2f} "
        f"| {seconds:.2f} | {cpu:.2f} | {ratio:.2f} | {peak:.2f} |"
    )


def main() -> None:
    """Write the models, measure, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="where the models are kept; 5 GB")
    given = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        folder = given or Path(temporary)
        print("| model | GB | copy (s) | pruneopt (s) | CPU (s) | times a copy | peak GB |")
        print("|---|---|---|---|---|---|---|")
        for name in MODELS:
            path = write(name, folder)
            for cold in (True, False):
                print(measure(path, folder, cold), flush=True)


if __name__ == "__main__":
    main()
