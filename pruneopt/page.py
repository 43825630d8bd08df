"""The report as one page of HTML: words and geometry here, markup and style in `page.html`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from pruneopt.errors import PruneoptError
from pruneopt.proved import counted, proved, sparse

Report = Mapping[str, Any]
FIGURES = (
    ("macs", "MACs", "Multiply-accumulates", ""),
    ("params", "Parameters", "Parameters", ""),
    ("bytes", "Weights", "Bytes of weights", "B"),
    ("latency_ms", "Latency", "Latency", "ms"),
    ("activation_bytes", "Activations", "Peak of activation memory", "B"),
    ("nodes", "Nodes", "Nodes", ""),
)
WIDTH, HEIGHT = 720, 200  # of the picture of widths, in its own units
CHART = 420, 170  # of a curve
WIDEST = 34  # of a bar with its gap
MOST_CURVES = 24  # drawn; those of the groups that gave most
MOST_FROZEN = 40  # listed


@dataclass(frozen=True)
class Bar:
    """A group in the picture of widths: where it stands, its height as it was and as it is."""

    x: float
    width: float
    before: float
    after: float
    label: str
    kept: int


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


def need_jinja() -> Any:
    """Jinja2, which the page needs. Raises PruneoptError where it is not installed."""
    try:
        import jinja2
    except ImportError:
        raise PruneoptError(
            "a report as HTML needs Jinja: pip install 'pruneopt[report]', or give a file that ends in .json"
        ) from None
    return jinja2


def render(report: Report) -> str:
    """One self-contained page: no scripts, fonts or pictures from elsewhere."""
    jinja2 = need_jinja()
    text = resources.files("pruneopt").joinpath("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"share": share, "distance": distance, "shape": shape}
    page: str = environment.from_string(text).render(
        report=report,
        rows=figures(report),
        bars=bars(report.get("groups", [])),
        size=(WIDTH, HEIGHT),
        chart=CHART,
        trade_off=trade_off(report),
        curves=sensitivities(report),
        frozen=report.get("frozen", [])[:MOST_FROZEN],
        passes=[_told(p) for p in report.get("passes", [])],
        proved=_sentence(proved(report)),
        counted=[_sentence(counted(entry)) for entry in sparse(report)],
    )
    return page


# --- words ------------------------------------------------------------------------------------------


def figures(report: Report) -> list[dict[str, Any]]:
    """Before, after and ratio of every figure that both models have."""
    rows = []
    for key, short, label, unit in FIGURES:
        before, after = report["input"].get(key), report["output"].get(key)
        if before is None or after is None:
            continue
        ratio = after / before if before else 1.0
        if key == "latency_ms":
            ratio = report.get("latency_ratio", ratio)
        rows.append(
            {
                "key": key,
                "short": short,
                "label": label,
                "before": number(before, unit),
                "after": number(after, unit),
                "ratio": ratio,
                "change": change(ratio),
            }
        )
    return rows


def change(ratio: float) -> str:
    """What a ratio means: less, more, or the same."""
    percent = round(100 * (ratio - 1))
    return "unchanged" if percent == 0 else f"{abs(percent)} % {'less' if percent < 0 else 'more'}"


def number(value: float, unit: str = "") -> str:
    """Three digits and a prefix."""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size and unit != "ms":
            return f"{value / size:.3g} {prefix}{unit}"
    text = str(value) if isinstance(value, int) else f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return f"{text} {unit}".strip()


def share(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f} %"


def distance(value: float) -> str:
    """A small number that may be very small."""
    return "0" if value == 0 else f"{value:.1e}" if value < 1e-3 else f"{value:.4f}"


def shape(value: Sequence[int]) -> str:
    """Sizes of a tensor."""
    return " \u00d7 ".join(map(str, value)) or "scalar"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _told(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A pass with its options, and what it says of itself in plain words."""
    hidden = {"pass", "options", "equivalence", "groups"}
    said = {k: v for k, v in entry.items() if k not in hidden and isinstance(v, str | int | float | bool)}
    options = {k: v for k, v in entry.get("options", {}).items() if v not in (None, "", False)}
    return {
        "name": entry["pass"],
        "options": options,
        "said": said,
        "proof": entry.get("equivalence"),
        "proved": _sentence(proved({**entry, "passes": [entry]}, "the model before").rpartition(", to ")[0]),
        "rounds": entry.get("latency") if isinstance(entry.get("latency"), list) else None,
    }


# --- geometry ---------------------------------------------------------------------------------------


def bars(groups: Sequence[Mapping[str, Any]]) -> list[Bar]:
    """One bar for each group, in graph order; heights by the square root, so that small groups are seen."""
    if not groups:
        return []
    step = min(WIDTH / len(groups), WIDEST)
    largest = max(math.sqrt(g["size"]) for g in groups)
    gap = min(3.0, step / 5)

    def height(count: float) -> float:
        return round(HEIGHT * math.sqrt(count) / largest, 1)

    return [
        Bar(
            round(i * step + gap / 2, 2),
            round(step - gap, 2),
            height(g["size"]),
            height(g["kept"]),
            f"{g['name']}: {g['kept']} of {g['size']}",
            g["kept"],
        )
        for i, g in enumerate(groups)
    ]


def trade_off(report: Report) -> list[Curve]:
    """Predicted damage at the outputs against the MACs kept, and the latency where that was predicted, too."""
    points = report.get("trade_off") or []
    made = []
    for key, title in (("macs", "Multiply-accumulates kept"), ("latency", "Latency kept")):
        known = [(p[key], p["damage"]) for p in points if key in p]
        if len(known) > 1:
            made.append(_curve(title, known, _reached(report, key), "predicted damage", marks=5))
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
        made.append(_curve(each["name"], points, left, f"{round(left * size)} of {size}"))
    return made


def _reached(report: Report, key: str) -> float | None:
    if key == "latency":
        ratio = report.get("latency_ratio")
        return None if ratio is None else float(ratio)
    return float(report["output"][key] / (report["input"][key] or 1))


def _curve(
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
