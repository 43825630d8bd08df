"""The report as one page of HTML: words and bars here, curves in `page_curves`, markup and style in `page.html`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from pruneopt.errors import PruneoptError
from pruneopt.page_curves import CHART, sensitivities, solution_path, trade_off
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
WIDEST = 34  # of a bar with its gap
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
        solution=solution_path(report),
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
