"""Checks a result as its user would: it loads, has the same signature, and how far its outputs have moved."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.errors import PruneoptError
from pruneopt.frontends.widen import has_halves
from pruneopt.model import Model
from pruneopt.passes.base import Outcome
from pruneopt.passes.context import Context

Made = tuple[Mapping[str, Array], dict[str, Any]]
AT_ONCE = 1 << 28  # bytes of the original's outputs that are held together
BLOCK = 1 << 16  # elements that are compared at once


@dataclass(frozen=True)
class Verify:
    """Refuse a model that the runtime does not load or whose signature differs; measure its fidelity."""

    def run(self, model: Model, context: Context) -> Outcome:
        """The model as it is.

        Raises:
            PruneoptError: the signature differs from the original's, or the runtime refuses the model.
        """
        original = context.original or model
        check_signature(original, model, context.dropped)
        check_loads(original, model, context)
        batches = list(context.calibration) or list(context.feeds)
        moved = fidelity(context, original, model, batches)
        return Outcome(model, {"fidelity": moved, "calibrated": bool(context.calibration)})


def check_signature(original: Model, model: Model, dropped: Collection[str] = ()) -> None:
    """Names, order, types and dimensions of inputs and outputs must be the same, without the `dropped` ones."""
    for what, before, after in (
        ("inputs", original.graph.inputs, model.graph.inputs),
        ("outputs", original.graph.outputs, model.graph.outputs),
    ):
        if [_ends(t) for t in before if t.name not in dropped] != [_ends(t) for t in after]:
            raise PruneoptError(
                f"the {what} of the rewritten model differ from the original's; nothing was written"
            )


def check_loads(original: Model, model: Model, context: Context) -> None:
    """What the runtime loads as it is must be loaded as it is after the rewrite, half precision included."""
    if has_halves(model):  # other models are loaded when their fidelity is measured
        try:
            context.backend.session(original)
        except PruneoptError:
            return
        context.backend.session(model)


def _ends(tensor: gs.Tensor) -> tuple[str, str, str]:
    return tensor.name, str(tensor.dtype), str(tensor.shape)


def fidelity(
    context: Context, original: Model, model: Model, batches: Iterable[Mapping[str, Array]]
) -> dict[str, dict[str, float]]:
    """Distance of each floating-point output from the original's, over all batches.

    Returns:
        Per output: `rel_l2` (norm of the difference over norm of the original), `cosine` (mean over the last
        dimension's vectors) and `argmax_agreement` (share of those vectors with the same largest entry).
    """
    sums: dict[str, _Sums] = {}
    for expected, found in _pairs(context, original, model, batches):
        for name, value in expected.items():
            made = found.get(name)
            if not isinstance(value, np.ndarray) or made is None or value.dtype.kind not in "fV":
                continue
            if value.size and made.shape == value.shape:  # a cache may hand less on
                sums.setdefault(name, _Sums()).add(value, made)
    return {name: total.figures() for name, total in sums.items()}


def _pairs(
    context: Context, original: Model, model: Model, batches: Iterable[Mapping[str, Array]]
) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
    """Outputs of both models, as many batches at a time as fit: large models take turns in memory."""
    rest = iter(batches)
    while chunk := _chunk(_outputs(context, original, rest)):
        found = _outputs(context, model, (feeds for feeds, _ in chunk))
        yield from ((expected, made) for (_, expected), (_, made) in zip(chunk, found, strict=True))


def _chunk(made: Iterator[Made]) -> list[Made]:
    """The first batches and their outputs, until these take `AT_ONCE` bytes."""
    chunk, size = [], 0
    for feeds, values in made:
        chunk.append((feeds, values))
        size += sum(value.nbytes for value in values.values() if isinstance(value, np.ndarray))
        if size >= AT_ONCE:
            break
    return chunk


def _outputs(context: Context, model: Model, batches: Iterable[Mapping[str, Array]]) -> Iterator[Made]:
    """Each batch and what a model makes of it; all but the original are loaded even where that is known."""
    names = [t.name for t in model.outputs]
    session = None
    for feeds in batches:
        known = context.known(model, feeds, names)
        if session is None and (known is None or model is not context.original):
            session = context.session(model)
        if known is None and session is not None:
            context.ran(feeds)
            known = session.run(feeds)
        yield feeds, known or {}


class _Sums:
    def __init__(self) -> None:
        self.difference = self.norm = self.cosine = self.agree = self.count = 0.0

    def add(self, a: Array, b: Array) -> None:
        size = a.shape[-1] if a.ndim else 1
        a, b = a.reshape(-1, size), b.reshape(-1, size)
        step = max(1, BLOCK // size)
        for i in range(0, len(a), step):
            self._add_rows(*(np.nan_to_num(each[i : i + step].astype(np.float64)) for each in (a, b)))

    def _add_rows(self, a: Array, b: Array) -> None:
        squares = np.einsum("ij,ij->i", a, a)
        self.norm += float(squares.sum())
        self.difference += float(np.square(a - b).sum())
        lengths = np.sqrt(squares * np.einsum("ij,ij->i", b, b))
        inner = np.einsum("ij,ij->i", a, b)
        self.cosine += float(np.where(lengths > 0, inner / np.where(lengths > 0, lengths, 1), 1.0).sum())
        self.agree += float((a.argmax(axis=1) == b.argmax(axis=1)).sum())
        self.count += len(a)

    def figures(self) -> dict[str, float]:
        return {
            "rel_l2": float(np.sqrt(self.difference / max(self.norm, np.finfo(np.float64).tiny))),
            "cosine": self.cosine / max(self.count, 1),
            "argmax_agreement": self.agree / max(self.count, 1),
        }
