"""Lines in the report's page: what more or less would cost, what each group is worth, and the path of a search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Report = Mapping[str, Any]
CHART = 420, 170  # of a curve, in its own units
MOST_CURVES = 24  # drawn; those of the groups that gave most


@dataclass(frozen=True)
class Curve:
    """A line through points, where it was left, and the words at its axes."""

    title: str
    path: str
    area: str
    at: tuple[float, float] | None
    note: str
    ticks_x: Sequence[tuple[float, str]] = ()
    ticks_y: Sequence[tuple[float, str]] = ()


def trade_off(report: Report) -> list[Curve]:
    """Predicted damage at the outputs against the MACs kept, and the latency where that was predicted, too.

    Where blocks went, measured damage as one went after the other.
    """
    points = report.get("trade_off") or []
    made = []
    for path in (p["curve"] for p in report.get("passes", []) if p["pass"] == "depth" and "curve" in p):
        blocks = [(1.0, 0.0), *((step["macs"], step["damage"]) for step in path)]
        if path:
            title = "Multiply-accumulates kept, block by block"
            made.append(curve(title, blocks, path[-1]["macs"], "measured damage", marks=5))
    for key, title in (("macs", "Multiply-accumulates kept"), ("latency", "Latency kept")):
        known = [(p[key], p["damage"]) for p in points if key in p]
        if len(known) > 1:
            made.append(curve(title, known, _reached(report, key), "predicted damage", marks=5))
    return made


def sensitivities(report: Report) -> list[Curve]:
    """The curves of the groups that gave most of themselves, worst first."""
    kept = {(g["name"], g["size"]): g["kept"] for g in report.get("groups", [])}
    places = [(c, (c["name"], c["sizes"][0])) for c in report.get("curves") or []]
    known = [(c, kept[p] / p[1]) for c, p in places if kept.get(p, p[1]) < p[1] and len(c["sizes"]) > 1]
    known.sort(key=lambda pair: pair[1])
    made = []
    for each, left in known[:MOST_CURVES]:
        size = each["sizes"][0]
        points = [(n / size, d) for n, d in zip(each["sizes"], each["damage"], strict=True)]
        made.append(curve(each["name"], points, left, f"{round(left * size)} of {size}"))
    return made


def solution_path(report: Report) -> list[Curve]:
    """How a search's entries came in: their share over its records, of all first, then of each group.

    The mark is at the record from which on more were in than this model has.
    """
    found = next((p["path"] for p in report.get("passes", []) if "path" in p), None)
    if not found or len(found["in"]) < 2 or "groups" not in found:
        return []
    kept = {g["name"]: g["kept"] for g in report.get("groups", [])}
    each = [(g["name"], g["size"], g["in"], kept.get(g["name"], g["size"])) for g in found["groups"]]
    whole = ("all entries", found["entries"], found["in"], sum(have for *_, have in each))
    return [_entering(*group, marks=0 if i else 5) for i, group in enumerate([whole, *each[:MOST_CURVES]])]


def _entering(name: str, size: int, entered: Sequence[int], have: int, marks: int) -> Curve:
    last = len(entered) - 1
    points = [(i / last, count / size) for i, count in enumerate(entered)]
    past = next((i / last for i, count in enumerate(entered) if count >= have), 1.0)
    return curve(name, points, past, f"{have} of {size} stay", marks)


def _reached(report: Report, key: str) -> float | None:
    if key == "latency":
        ratio = report.get("latency_ratio")
        return None if ratio is None else float(ratio)
    return float(report["output"][key] / (report["input"][key] or 1))


def curve(
    title: str, points: Sequence[tuple[float, float]], at: float | None, note: str, marks: int = 0
) -> Curve:
    """A line from the narrowest to the whole, left to right; x is a share in [0, 1]."""
    points = sorted(points)
    top = max(d for _, d in points) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return round(CHART[0] * min(x, 1.0), 1), round(CHART[1] * (1 - y / top), 1)

    line = [place(x, y) for x, y in points]
    path = " ".join(f"{x},{y}" for x, y in line)
    area = f"{line[0][0]},{CHART[1]} {path} {line[-1][0]},{CHART[1]}"
    here = None if at is None else place(at, _between(points, at))
    ticks_x = [(CHART[0] * i / marks, f"{100 * i // marks} %") for i in range(marks + 1)] if marks else []
    ticks_y = [(CHART[1] * (1 - i / 4), f"{top * i / 4:.2g}") for i in range(5)] if marks else []
    return Curve(title, path, area, here, note, ticks_x, ticks_y)


def _between(points: Iterable[tuple[float, float]], x: float) -> float:
    """The line's height at x."""
    before: tuple[float, float] | None = None
    for point in points:
        if point[0] >= x:
            if before is None or point[0] == before[0]:
                return point[1]
            part = (x - before[0]) / (point[0] - before[0])
            return before[1] + part * (point[1] - before[1])
        before = point
    return before[1] if before else 0.0
