"""What was proved and counted, in words, from what each pass says of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Entry = Mapping[str, Any]
Words = tuple[str, str]  # of one, of several
AXES: Words = ("axis masked", "axes masked")
BLOCKS: Words = ("block switched off", "blocks switched off")
EXITS: Words = ("exit's condition added", "exits' conditions added")
SIZES: Words = ("size that is smaller", "sizes that are smaller")
CUTS: Words = ("token reduction written out", "token reductions written out")

# Passes that give weights other values: what was proved is the rest.
WEIGHTS = {"lowrank": "with weights of lower rank", "sparsify": "before weights were set to zero"}


def proved(report: Entry, before: str = "the original") -> str:
    """What the rewritten model was proved equal to: what was there `before`, less what went. Empty without a proof."""
    proof = report.get("equivalence")
    if not proof:
        return ""
    changes = _listed([f"{n} {one if n == 1 else many}" for (one, many), n in _counts(report).items() if n])
    names = {each["pass"] for each in _steps(report.get("passes", ()))}
    zeros = "".join(f" {said}" for name, said in WEIGHTS.items() if name in names)
    masked = f" with {changes}" if changes else ""
    return f"proved: equal to {before}{masked}{zeros}, to {proof['max_rel_error']:.1e}"


def counted(entry: Entry) -> str:
    """What a pass that made weights zero says of them."""
    layers = entry["layers"]
    blind = "" if entry["data"] else "; chosen without data, which costs accuracy: give --calib"
    return (
        f"counted: {entry['sparsity']:.1%} of {len(layers)} weight{'s' * (len(layers) != 1)} "
        f"{'is' if len(layers) == 1 else 'are'} zero, in the pattern ({entry['pattern']}, {entry['method']}){blind}"
    )


def sparse(report: Entry) -> Iterator[Entry]:
    """The passes that made weights zero."""
    yield from (each for each in _steps(report.get("passes", ())) if each["pass"] == "sparsify")


def _counts(report: Entry) -> Counter[Words]:
    """How often each sort of change was undone in the original to compare."""
    found = Counter[Words]()
    for entry in _steps(report.get("passes", ())):
        found[_words(entry)] += entry.get("equivalence", {}).get("atoms_checked", 0)
    return found if found.total() else Counter({AXES: report["equivalence"].get("atoms_checked", 0)})


def _words(entry: Entry) -> Words:
    if entry["pass"] == "depth":
        return BLOCKS if entry.get("dropped") else EXITS
    if entry["pass"] == "length":
        return SIZES if "inputs" in entry else CUTS
    return AXES


def _steps(passes: Sequence[Entry]) -> Iterator[Entry]:
    """Every pass; of one that runs others, these."""
    for entry in passes:
        steps = entry.get("steps")
        if isinstance(steps, Sequence) and steps and all(isinstance(each, Mapping) for each in steps):
            yield from _steps(steps)
        else:
            yield entry


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
