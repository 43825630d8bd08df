"""`python -m benchmarks.zoo FOLDER_OR_FILE...`: every ONNX file through pruneopt, in processes of its own.

Each model is pruned three times (`--macs 0.5`; `width{ratio=0.5}`; the same with coupled groups), inspected,
and what was written is checked with onnx and onnxruntime alone. Time and memory are those of the processes.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import ours, table
from benchmarks.peers import measure_peers

Record = dict[str, Any]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("places", nargs="+", type=Path, metavar="FOLDER_OR_FILE")
    parser.add_argument("--out", type=Path, metavar="TABLE.md", help="write the table there too")
    parser.add_argument("--json", type=Path, metavar="RESULTS.json", help="write all figures there")
    parser.add_argument("--resume", action="store_true", help="keep the figures that RESULTS.json has")
    parser.add_argument(
        "--retry", action="store_true", help="like --resume, but measure models with problems again"
    )
    parser.add_argument(
        "--peers", metavar="PYTHON", help="also run Torch-Pruning and onnxsim, installed for PYTHON"
    )
    parser.add_argument("--modes", nargs="+", choices=ours.MODES, default=list(ours.MODES))
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for one command [180]")
    return parser.parse_args()


def files(places: list[Path]) -> Iterator[Path]:
    """The ONNX files in the order given, those of a folder sorted by size."""
    for place in places:
        if place.is_dir():
            yield from sorted(place.rglob("*.onnx"), key=lambda path: path.stat().st_size)
        elif place.is_file():
            yield place
        else:
            raise SystemExit(f"there is no file or folder '{place}'")


def run(options: argparse.Namespace) -> list[Record]:
    """Measure all, writing the figures after each model."""
    records = _known(options)
    for path in files(options.places):
        record = records.get(path.name)
        if record is None or (options.retry and record["problems"]):
            record = ours.measure(path, options.modes, options.limit) | {
                "peers": (record or {}).get("peers", {})
            }
        if options.peers:
            measure_peers(path, options.peers, options.limit, record)
        records[path.name] = record
        print(f"{path.name}: {'; '.join(record['problems']) or 'ok'}", flush=True)
        _write(options.json, json.dumps(list(records.values()), indent=1))
    return list(records.values())


def _known(options: argparse.Namespace) -> dict[str, Record]:
    if not (options.resume or options.retry) or options.json is None or not options.json.exists():
        return {}
    return {record["file"]: record for record in json.loads(options.json.read_text())}


def _write(target: Path | None, text: str) -> None:
    if target is not None:
        partial = target.with_name(target.name + ".partial")
        partial.write_text(text)
        os.replace(partial, target)


def main() -> None:
    """Measure, then print the table."""
    options = arguments()
    text = table.markdown(run(options))
    _write(options.out, text)
    print(text)


if __name__ == "__main__":
    main()
