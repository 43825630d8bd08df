"""The zoo's figures as a Markdown table, and their medians."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Record = dict[str, Any]

COLUMNS: dict[str, Callable[[Record], str]] = {
    "model": lambda r: str(r["file"]).removesuffix(".onnx"),
    "parameters": lambda r: _count(r["check"].get("params")),
    "MACs kept, `--macs 0.5`": lambda r: _share(_at(r, "macs", "macs_kept")),
    "parameters kept, free groups": lambda r: _share(_at(r, "free", "params_kept")),
    "MACs kept, free groups": lambda r: _share(_at(r, "free", "macs_kept")),
    "parameters kept, all groups": lambda r: _share(_at(r, "coupled", "params_kept")),
    "MACs kept, all groups": lambda r: _share(_at(r, "coupled", "macs_kept")),
    "prunable": lambda r: _share(_at(r, "inspect", "prunable"), 3),
    "error": lambda r: _error(r),
    "forward (s)": lambda r: _seconds(r["check"].get("forward")),
    "own CPU (s)": lambda r: _seconds(_worst(r, "own_cpu")),
    "own CPU (forwards)": lambda r: _ratio(_worst(r, "own_cpu"), r["check"].get("forward")),
    "all (forwards)": lambda r: _ratio(_worst(r, "seconds"), r["check"].get("forward")),
    "peak (MB)": lambda r: _whole(_worst(r, "peak_mb")),
    "status": lambda r: _cell("; ".join(r["problems"]) or "ok"),
}
MODES = ("macs", "free", "coupled")
PEERS = {"torch-pruning": "Torch-Pruning", "onnxsim": "onnxsim"}


def markdown(records: Sequence[Record]) -> str:
    """One row for each model, columns of the peers where they were run, medians below."""
    columns = dict(COLUMNS)
    for key, name in PEERS.items():
        if any(key in record.get("peers", {}) for record in records):
            columns[f"{name}: parameters kept"] = _peer(key)
    rows = [list(columns), ["---"] * len(columns)]
    rows += [[column(record) for column in columns.values()] for record in records]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n\n" + summary(records)


def summary(records: Sequence[Record]) -> str:
    """How many models are well, and medians over those that have the figure."""
    lines = [f"- {sum(not r['problems'] for r in records)} of {len(records)} models without a problem"]
    for mode in MODES:
        fine = sum(_at(r, mode, "code") == 0 for r in records)
        params = _median(_at(r, mode, "params_kept") for r in records)
        macs = _median(_at(r, mode, "macs_kept") for r in records)
        lines.append(
            f"- {mode}: exit 0 on {fine}; median parameters kept {_share(params)}, MACs {_share(macs)}"
        )
    lines.append(
        f"- prunable share: median {_share(_median(_at(r, 'inspect', 'prunable') for r in records), 3)}"
    )
    lines.append(f"- own CPU: median {_seconds(_median(_worst(r, 'own_cpu') for r in records))} s")
    for key, name in PEERS.items():
        tried = [r["peers"][key] for r in records if key in r.get("peers", {})]
        tried = [peer for peer in tried if peer["status"] != "not a timm model"]
        fine = sum(peer["status"] == "ok" for peer in tried)
        kept = _median(peer.get("params_kept") for peer in tried if peer["status"] == "ok")
        lines += (
            [f"- {name}: {fine} of {len(tried)} done; median parameters kept {_share(kept)}"] if tried else []
        )
    return "\n".join(lines) + "\n"


def _peer(key: str) -> Callable[[Record], str]:
    def cell(record: Record) -> str:
        peer = record.get("peers", {}).get(key)
        if peer is None:
            return ""
        return _share(peer["params_kept"]) if peer["status"] == "ok" else _cell(peer["status"][:60])

    return cell


def _at(record: Record, mode: str, key: str) -> Any:
    return record.get(mode, {}).get(key)


def _worst(record: Record, key: str) -> Any:
    return max((_at(record, m, key) for m in MODES if _at(record, m, key) is not None), default=None)


def _median(found: Iterable[Any]) -> Any:
    known = [value for value in found if value is not None]
    return statistics.median(known) if known else None


def _error(record: Record) -> str:
    worst = _worst(record, "error")
    return "" if worst is None else f"{worst:.0e}"


def _share(value: Any, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _seconds(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if value < 0.1 else f"{value:.1f}"


def _ratio(value: Any, unit: Any) -> str:
    return "" if value is None or not unit else f"{value / unit:.1f}"


def _whole(value: Any) -> str:
    return "" if value is None else f"{value:.0f}"


def _count(value: Any) -> str:
    return "" if value is None else f"{value / 1e6:.2f} M"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
