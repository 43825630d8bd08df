"""What pruneopt does with one model: the command line once for each mode, then a check of what it wrote."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.isolated import Ran, run

Record = dict[str, Any]

MODES = {
    "macs": ["--macs", "0.5"],
    "free": ["--passes", "width{ratio=0.5}"],
    "coupled": ["--passes", "width{ratio=0.5,coupled=true}"],
}
BLIND = 1e-3  # outputs that removal moves by less than this cannot show a wrong rewrite
LOWEST = 0.45  # share of the MACs that a budget of 0.5 must keep at least


def measure(path: Path, modes: list[str], limit: float) -> Record:
    """All figures of one model; each command gets `limit` seconds."""
    record: Record = {"file": path.name, "mb": path.stat().st_size / 1e6}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        outs = {mode: Path(folder) / f"{mode}.onnx" for mode in modes}
        for mode in modes:
            record[mode] = _prune(path, outs[mode], MODES[mode], limit)
        record["inspect"] = _inspect(path, limit)
        record["check"] = _check(path, [out for out in outs.values() if out.exists()], limit)
        for mode, out in outs.items():
            _merge(
                record[mode], record["check"].get("outputs", {}).get(str(out)), record["check"].get("params")
            )
    record["check"].pop("outputs", None)
    record["problems"] = problems(record, modes)
    return record


def _prune(path: Path, out: Path, options: list[str], limit: float) -> Record:
    share = out.with_suffix(".share")
    command = ["benchmarks.counted_command", str(share), str(path), "-o", str(out), *options, "--json", "-q"]
    ran = run([sys.executable, "-m", *command], limit)
    figures = _figures(ran)
    if share.exists():
        figures |= json.loads(share.read_text())
    if ran.code != 0:
        return figures
    report = json.loads(ran.out)
    proof = report.get("equivalence", {})
    before, after = report["input"], report["output"]
    return figures | {
        "macs_kept": after["macs"] / max(before["macs"], 1),
        "latency_ratio": report.get("latency_ratio"),
        "error": proof.get("max_rel_error"),
        "axes": proof.get("atoms_checked"),
        "inside": sum(p.get("equivalence", {}).get("inside_checked", 0) for p in report["passes"]),
        "moved": max((each["rel_l2"] for each in report.get("fidelity", {}).values()), default=None),
        "nodes": [before["nodes"], after["nodes"]],
        "notes": report.get("notes"),
    }


def _figures(ran: Ran) -> Record:
    figures: Record = {"code": ran.code, "seconds": ran.seconds, "cpu": ran.cpu, "peak_mb": ran.peak_mb}
    if ran.code is None:
        figures["said"] = "time limit"
    elif ran.code:
        traceback = "Traceback: " if "Traceback (most recent call last)" in ran.err else ""
        figures["said"] = traceback + Ran(ran.code, 0, 0, 0, "", ran.err).last_words
    return figures


def _inspect(path: Path, limit: float) -> Record:
    ran = run([sys.executable, "-m", "pruneopt", "inspect", str(path), "--json"], limit)
    if ran.code != 0:
        return _figures(ran)
    found = json.loads(ran.out)
    frozen = [
        {k: entry[k] for k in ("reason", "size")} | {"tensors": len(entry["tensors"])}
        for entry in found["frozen"]
    ]
    coupled = sum(bool(group["coupled"]) for group in found["groups"])
    counts = {"groups": len(found["groups"]), "coupled": coupled}
    return _figures(ran) | counts | {"prunable": found["prunable_share"], "frozen": frozen[:12]}


def _check(path: Path, outs: list[Path], limit: float) -> Record:
    ran = run([sys.executable, "-m", "benchmarks.check", str(path), *map(str, outs)], limit)
    return json.loads(ran.out) if ran.code == 0 else _figures(ran)


def _merge(mode: Record, checked: Record | None, params: int | None) -> None:
    if checked and params:
        mode["params_kept"] = checked["params"] / params
        mode["check"] = checked["problems"]


def problems(record: Record, modes: list[str]) -> list[str]:
    """Everything that is not as it should be, a phrase each; nothing where all is well."""
    if "forward" not in record["check"]:
        return [f"original: {record['check'].get('said')}"]
    found = []
    for mode in modes:
        found += [f"{mode}: {text}" for text in _mode_problems(record[mode], record["check"]["forward"])]
    kept = record.get("macs", {}).get("macs_kept")
    if kept is not None and not LOWEST <= kept <= 0.5:
        found.append(f"macs: {kept:.3f} of the MACs kept")
    if record["inspect"]["code"] != 0:
        found.append(f"inspect: exit {record['inspect']['code']}: {record['inspect']['said']}")
    return found


def _mode_problems(figures: Record, forward: float) -> list[str]:
    if figures["code"] != 0:
        return [f"exit {figures['code']}: {figures['said']}"]
    found = list(figures.get("check", ["was not checked"]))
    if not (figures["error"] or 0.0) <= 1e-4:
        found.append(f"equivalence error {figures['error']:.1e}")
    if (
        figures["axes"]
        and not figures["inside"]
        and figures["moved"] is not None
        and figures["moved"] < BLIND
    ):
        found.append(f"the proof is blind: removal moves the outputs by {figures['moved']:.0e} only")
    if figures["own_cpu"] > max(2.0, 5 * forward):
        found.append(f"own CPU {figures['own_cpu']:.1f} s = {figures['own_cpu'] / forward:.0f} forwards")
    return found
