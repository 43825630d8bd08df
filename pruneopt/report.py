"""What was done, in figures: a plain dictionary for `--json`, and the table that a person reads."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruneopt.errors import PruneoptError
from pruneopt.model import Model
from pruneopt.proved import counted, proved, sparse

if TYPE_CHECKING:
    from rich.console import Console

Report = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """A rewritten model and the report on it (`docs/report.md` lists its keys)."""

    model: Model
    report: Report


def to_json(report: Report) -> str:
    """The report as JSON text."""
    return json.dumps(report, indent=2, default=_plain)


def _text(report: Report, path: Path) -> str:
    """The report as its file's ending says: a page or JSON."""
    if path.suffix != ".html":
        return to_json(report) + "\n"
    from pruneopt.page import render

    return render(report)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def write_report(report: Report, path: Path) -> None:
    """Write a report, whole or not at all. Raises PruneoptError where the place cannot be written."""
    text = _text(report, path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except OSError as error:
        raise PruneoptError(f"the report {path} cannot be written: {error.strerror}") from None


ROWS = (
    ("macs", "MACs"),
    ("params", "parameters"),
    ("bytes", "weight bytes"),
    ("activation_bytes", "activation bytes"),
    ("nodes", "nodes"),
    ("latency_ms", "latency (ms)"),
)


def print_table(report: Report, console: Console) -> None:
    """Before, after and ratio, then what was proved and how far the outputs have moved."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("", "before", "after", "ratio"):
        table.add_column(heading, justify="right" if heading else "left")
    for key, label in ROWS:
        before, after = report["input"].get(key), report["output"].get(key)
        if before is not None and after is not None:
            ratio = (
                report.get("latency_ratio", after / before) if key == "latency_ms" else after / (before or 1)
            )
            table.add_row(label, _number(before), _number(after), f"{ratio:.3f}")
    console.print(table)
    for line in _sentences(report):
        console.print(line, highlight=False, soft_wrap=True)


def _sentences(report: Report) -> list[str]:
    lines = []
    if why := report.get("kept_input"):
        lines.append(why)
    lines += [text] if (text := proved(report)) else []
    lines += map(counted, sparse(report))
    for entry in report.get("passes", ()):
        if dropped := entry.get("dropped"):
            lines.append(f"dropped {', '.join(block['name'] for block in dropped)}")
        lines += [f"note: {entry['note']}"] if "note" in entry else []
    for name, moved in report.get("fidelity", {}).items():
        on = "calibration data" if report.get("calibrated") else "synthetic inputs, not real data"
        lines.append(
            f"output '{name}': {moved['rel_l2']:.1%} away from the original (cosine {moved['cosine']:.4f}), on {on}"
        )
    return lines


def _number(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
