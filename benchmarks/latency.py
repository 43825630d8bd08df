"""`python -m benchmarks.latency FOLDER_FILE_OR_TASK...`: what a budget in measured latency gives, model by model.

Each model is pruned to `--latency 0.6` with 1 and with 2 threads, in processes of its own; tasks of
`benchmarks.accuracy` with their own calibration data, others without data unless `--calib` names some. What was
written is then timed against the original in turns, afresh. The efficiency is the share of time saved over the share
of multiply-accumulates saved. With one thread times are those of the thread itself, which other programs on
the machine do not lengthen; with more they are those of the clock on the wall, on undisturbed processors as far
as they come to do so (`benchmarks.undisturbed`), and a busy machine spoils them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy import feeds
from benchmarks.accuracy.tasks import TASKS, load
from benchmarks.isolated import run
from benchmarks.undisturbed import wait
from benchmarks.zoo import files
from pruneopt.backends.cores import cores

Record = dict[str, Any]
SECONDS = 4.0  # that two models are timed in turns

TIMED = """
import json, sys
from benchmarks.undisturbed import while_undisturbed
from pruneopt import api
from pruneopt.backends.cores import cores
from pruneopt.backends.ort import OnnxRuntime
before, after = map(api.load, sys.argv[1:3])
threads, seconds = int(sys.argv[3]), float(sys.argv[4])
feeds = api.make_context(before).feeds[-1]
first, second = while_undisturbed(lambda: OnnxRuntime().compare(before, after, feeds, threads, seconds), cores(threads))
print(json.dumps({"ms": first.median_ms, "ratio": second.ratio_to_first, "spread": second.spread}))
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("places", nargs="+", type=Path, metavar="FOLDER_FILE_OR_TASK")
    parser.add_argument("--latency", type=float, default=0.6, metavar="R", help="share to keep [0.6]")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads [1 2]")
    parser.add_argument(
        "--passes", metavar="SPEC", help="passes instead, e.g. 'width{latency=0.6,coupled=true}'"
    )
    parser.add_argument("--calib", metavar="FILE|DIR|MODULE:FUNCTION", help="real inputs, for all models")
    parser.add_argument("--json", type=Path, metavar="RESULTS.json", help="write all figures there")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for one command [600]")
    return parser.parse_args()


def models(places: list[Path], calib: str | None) -> Iterator[tuple[Path, str | None]]:
    """The files, and the calibration data of each."""
    for place in places:
        if str(place) in TASKS:
            yield load(str(place), feeds.CACHE)[0].model, f"{feeds.__name__}:{place}"
        else:
            yield from ((path, calib) for path in files([place]))


def measure(path: Path, calib: str | None, threads: int, options: argparse.Namespace) -> Record:
    """Prune one model and time the result."""
    record: Record = {"file": path.name, "calib": calib, "threads": threads}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        out = str(Path(folder) / "small.onnx")
        wanted = ["--passes", options.passes] if options.passes else ["--latency", str(options.latency)]
        wanted += ["--calib", calib] if calib else []
        wait(cores(threads))
        command = ["-m", "pruneopt", str(path), "-o", out, *wanted, "--threads", str(threads), "--json", "-q"]
        ran = run([sys.executable, *command], options.limit)
        record |= {"code": ran.code, "seconds": ran.seconds, "cpu": ran.cpu}
        if ran.code != 0:
            return record | {"said": ran.last_words}
        report = json.loads(ran.out)
        timed = run([sys.executable, "-c", TIMED, str(path), out, str(threads), str(SECONDS)], options.limit)
        if timed.code != 0:
            return record | {"code": timed.code, "said": timed.last_words}
    macs = report["output"]["macs"] / max(report["input"]["macs"], 1)
    rounds = [p["latency"] for p in report["passes"] if "latency" in p]
    found: Record = json.loads(timed.out)
    saved = (1 - found["ratio"]) / (1 - macs) if macs < 1 else 0.0
    return record | found | {"macs": macs, "efficiency": saved, "rounds": rounds[0] if rounds else []}


def row(record: Record) -> str:
    """One line of the table."""
    cells = [record["file"].removesuffix(".onnx"), str(record["threads"])]
    if "ratio" not in record:
        cells += ["", "", "", "", "", str(record.get("said"))[:120].replace("|", "/")]
    else:
        cells += [f"{record['ms']:.1f}", f"{record['ratio']:.3f}", f"{record['spread']:.3f}"]
        cells += [f"{record['macs']:.3f}", f"{record['efficiency']:.2f}"]
        cells += [f"{len(record['rounds'])} rounds, {record['cpu']:.0f} s of CPU"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure all, printing each row as it comes."""
    options = arguments()
    heads = ["model", "threads", "before (ms)", "latency kept", "spread", "MACs kept", "efficiency", "work"]
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}", flush=True)
    records = []
    for path, calib in models(options.places, options.calib):
        for threads in options.threads:
            records.append(measure(path, calib, threads, options))
            print(row(records[-1]), flush=True)
            if options.json:
                options.json.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
