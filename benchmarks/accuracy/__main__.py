"""`python -m benchmarks.accuracy minilm ocr --macs 0.7 0.5`: distance to the dense model at equal MACs, as a table."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.accuracy import table
from benchmarks.accuracy.methods import FREE, METHODS, PEERS, Failed, prune
from benchmarks.accuracy.table import Row
from benchmarks.accuracy.task import Dense, distance, moved, runner
from benchmarks.accuracy.tasks import TASKS, load

BASELINES = ("uniform l2", *PEERS)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument(
        "tasks", nargs="*", default=list(TASKS), choices=[*TASKS, []], metavar="TASK", help=", ".join(TASKS)
    )
    parser.add_argument("--macs", type=float, nargs="*", default=[0.7, 0.5], help="shares to keep [0.7 0.5]")
    parser.add_argument(
        "--methods", nargs="+", default=["default", *BASELINES], choices=METHODS, metavar="METHOD",
        help=", ".join(METHODS),
    )  # fmt: skip
    parser.add_argument("--free", action="store_true", help="also what goes without a budget")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "pruneopt" / "benchmarks")
    parser.add_argument(
        "--peers", metavar="PYTHON", default=sys.executable, help="for which peers are installed"
    )
    parser.add_argument("--json", type=Path, metavar="ROWS.json", help="keep the figures; what it has stays")
    parser.add_argument("--out", type=Path, metavar="TABLE.md", help="write the table there too")
    return parser.parse_args()


def main() -> None:
    """Run the tasks, a line for each row as it is measured, then print the table."""
    given = arguments()
    rows = {row.key: row for row in table.known(given.json)}
    asked: list[tuple[str, float | None]] = [(m, share) for share in given.macs for m in given.methods]
    for name in given.tasks:
        wanted = [("dense", None), *asked, *([(FREE, None)] if given.free else [])]
        missing = [each for each in wanted if (name, *each) not in rows]
        benches = [_Bench(fold) for fold in load(name, given.cache)] if missing else []
        for method, share in missing:
            row = table.mean([b.row(method, share, given.peers, given.cache) for b in benches])
            rows[row.key] = row
            print(row, file=sys.stderr, flush=True)
            table.write(given.json, list(rows.values()))
    text = table.markdown([row for row in rows.values() if row.task in given.tasks], BASELINES)
    if given.out:
        given.out.write_text(text + "\n")
    print(text)


class _Bench(Dense):
    def row(self, method: str, share: float | None, peers: str, cache: Path) -> Row:
        """Prune and measure."""
        task = self.task
        row = Row(task.name, method, share, unit=task.unit)
        if method == "dense":
            return replace(row, distances=dict.fromkeys(task.held, 0.0), scores=self.score)
        try:
            result = prune(task, self.model, method, share, peers, cache)
        except Failed as error:
            return replace(row, status=str(error))
        run = runner(result.model)
        found = {name: [run(batch) for batch in held] for name, held in task.held.items()}
        report = result.report
        return replace(
            row,
            macs=report["output"]["macs"] / report["input"]["macs"],
            distances={n: distance(self.dense[n], found[n], task.kind) for n in found},
            moved=moved(*([x for each in outs.values() for x in each] for outs in (self.dense, found))),
            scores=task.score(run),
            latency=report["latency_ratio"],
            seconds=report["seconds"],
            forwards=sum(each.get("forwards", 0.0) for each in report["passes"])
            if "passes" in report
            else None,
        )


if __name__ == "__main__":
    main()
