"""Proves a rewrite: the masked original and the rewritten model run side by side and must agree.

They are compared at the outputs. Where an output cannot show anything, because it is constant, or where a
weight of zeros hides what goes into it (heads and residual branches are often initialised so), they are also
compared inside: at tensors of the same name, without the entries that the rewrite removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.errors import PruneoptError
from pruneopt.model import Model, values
from pruneopt.passes.decisions import Decisions
from pruneopt.passes.rounding import trembling

if TYPE_CHECKING:
    from pruneopt.arrays import Feeds
    from pruneopt.passes.claims import Claim
    from pruneopt.passes.context import Context
    from pruneopt.passes.runtime import Session

BLOCK = 1 << 18  # entries that are compared at once
TOLERANCE = 1e-4  # float32 rounding over a deep net stays well below; a wrong rewrite is orders above
DOUBTFUL = 1e-3  # errors up to here may be rounding, in a net that magnifies it
NOISE = 10  # times what moving all last bits does: sums in another order round oftener than that
FLOOR = 1e-2  # inner tensors smaller than that may be nothing but rounding errors of larger ones
TINY = 1e-3  # factors below make a branch too quiet to be heard at the outputs (a layer scale of 1e-6)
SAMPLED = 24  # products compared where the outputs are deaf
AT_ONCE = 16  # inner tensors held in memory together
MOST = 64  # inner tensors compared at all, the last ones


@dataclass(frozen=True)
class Equivalence:
    """How far a rewritten model is from its masked original.

    Attributes:
        max_rel_error: largest difference of an entry, as a share of its tensor's largest magnitude.
        atoms_checked: number of axes that were masked.
        inside_checked: number of inner tensors that were compared.
        rounding: the error that rounding alone may make, where it had to be looked at.
    """

    max_rel_error: float
    atoms_checked: int
    inside_checked: int = 0
    rounding: float = 0.0


def prove(model: Model, claim: Claim, context: Context, tolerance: float = TOLERANCE) -> Equivalence:
    """Run the masked originals and the rewritten model side by side.

    Raises:
        PruneoptError: they differ by more than `tolerance`. This is a bug of a rule, never of the user.
    """
    points = comparison_points(model.graph)
    worst, inside, rounding = 0.0, 0, 0.0
    references = list(_run(claim, points, context))  # before the other model: large ones take turns in memory
    session = context.session(model, points, optimize=False)
    for run, (reference, feeds, expected) in enumerate(references):
        found = session.run(feeds)
        context.remember(model, feeds, found)
        pair = _Pair(model, reference, feeds, claim, context, run)
        error = max(*(distance(expected[name], found[name]) for name in expected), 0.0)
        if not error <= tolerance:
            error = _decided_alike(pair, points, error)
        if tolerance < error <= DOUBTFUL:
            rounding = max(rounding, _rounding(reference, feeds, points, context))
        worst = max(worst, error)
        if run == 0 and claim.count():
            silent = [name for name, value in expected.items() if _is_silent(value)]
            names = hidden(model.graph)
            whole = context.known(context.original, feeds, points) if context.original else None
            if _is_deaf(expected, whole or {}, tolerance):
                names = list(dict.fromkeys([*names, *products(model.graph)]))
            inside, error = pair.behind(silent, names)
            if not error <= tolerance:
                error = _decided_alike(pair, [*points, *names], error)
            worst = max(worst, error)
    if not worst <= max(tolerance, rounding):
        raise PruneoptError(
            f"the rewritten model differs from the masked original by {worst:.1e} (at most {tolerance:.0e} "
            "is allowed), so nothing was written; please report this model"
        )
    return Equivalence(worst, claim.count(), inside, rounding)


def _decided_alike(pair: _Pair, points: Sequence[str], error: float) -> float:
    """The largest error once both models decide alike, at `points` and at all that decides; else `error`."""
    decisions = Decisions(*pair.models)
    names = list(dict.fromkeys([*points, *decisions.inputs]))
    expected = pair.run(1, [*names, *decisions.makers])
    told = decisions.told(pair.claim, expected, pair.number)
    if not told:
        return error
    names = [name for name in names if name not in told]
    session = pair.context.session(decisions.pinned(told), names, optimize=False)
    found = session.run({**pair.feeds, **told})
    kept = {name: pair.left(name, expected[name]) for name in names}
    kept |= {name: expected[name] for name in points if kept.get(name) is None and name not in told}
    return max((distance(kept[n], found[n], FLOOR) for n in names if kept[n] is not None), default=0.0)


def _rounding(reference: Model, feeds: Feeds, points: Sequence[str], context: Context) -> float:
    """The error at `points` that two right ways to compute them may have, in a net that magnifies rounding."""
    before, after = trembling(reference, feeds, points, context)
    return NOISE * max((distance(before[name], after[name]) for name in points), default=0.0)


def _run(
    claim: Claim, points: Sequence[str], context: Context
) -> Iterator[tuple[Model, Feeds, dict[str, Any]]]:
    loaded: tuple[Model, Session] | None = None
    for reference, feeds in claim.references():
        known = context.known(reference, feeds, points)
        if known is not None:
            yield reference, feeds, known
            continue
        if loaded is None or loaded[0] is not reference:
            loaded = reference, context.session(reference, points, optimize=False)
        yield reference, feeds, loaded[1].run(feeds)


SQUASHING = {"Sigmoid", "HardSigmoid", "Softmax", "LogSoftmax", "Tanh", "ArgMax", "ArgMin", "Round", "Cast"}
SQUASHING |= {"ZipMap", "SplitToSequence"}  # what comes out is no tensor


def comparison_points(graph: gs.Graph) -> list[str]:
    """Names of the tensors to compare: the outputs, or what goes into a squashing op that makes one.

    A saturated sigmoid or an argmax would hide a wrong rewrite, and turn rounding into a flipped bit.
    """
    points = []
    for tensor in graph.outputs:
        while tensor.inputs and tensor.inputs[0].op in SQUASHING and tensor.inputs[0].inputs[0].inputs:
            tensor = tensor.inputs[0].inputs[0]
        points.append(tensor.name)
    return points


def distance(expected: Any, found: Any, floor: float = float(np.finfo(np.float32).tiny)) -> float:
    """Largest difference as a share of the largest magnitude; of integers, the share that differs."""
    if not isinstance(expected, np.ndarray) or not expected.size:
        return 0.0
    if expected.shape != found.shape:
        return float("inf")
    if expected.dtype.kind not in "fcV":
        return float(np.mean(expected != found))
    difference, largest = 0.0, floor
    for a, b in _blocks(expected, found):
        finite = np.isfinite(a)
        if not (finite == np.isfinite(b)).all():
            return float("inf")
        a, b = np.where(finite, a, 0), np.where(finite, b, 0)
        difference = max(difference, float(np.abs(a - b).max()))
        largest = max(largest, float(np.abs(a).max()))
    return difference / largest


def _blocks(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """The arrays piece by piece, in float64."""
    flat = [array.reshape(-1) for array in arrays]
    for i in range(0, flat[0].size, BLOCK):
        yield tuple(each[i : i + BLOCK].astype(np.float64) for each in flat)


def _is_silent(value: Any) -> bool:
    """Whether a floating-point array of more than one entry has one value only."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fV" or value.size < 2:
        return False
    return bool(value.min() == value.max())


def _is_deaf(masked: dict[str, Any], whole: dict[str, Any], tolerance: float) -> bool:
    """Whether masking moves an output so little that a wrong rewrite could hide within the tolerance."""
    return any(distance(whole[name], masked[name]) < 100 * tolerance for name in masked if name in whole)


# --- inside -----------------------------------------------------------------------------------------

# Where an op multiplies: the inputs a factor of zeros at one of which hides the others.
FACTORS = {
    "BatchNormalization": (0, 1),
    "Conv": (0, 1),
    "ConvTranspose": (0, 1),
    "Gemm": (0, 1),
    "GroupNormalization": (0, 1),
    "InstanceNormalization": (0, 1),
    "LayerNormalization": (0, 1),
    "MatMul": (0, 1),
    "Mul": (0, 1),
    "RMSNormalization": (0, 1),
    "SimplifiedLayerNormalization": (0, 1),
}


def hidden(graph: gs.Graph) -> list[str]:
    """Names of the tensors that are multiplied by constants of zeros or next to it, in graph order."""
    found: dict[str, None] = {}
    for node in graph.nodes:
        factors = [node.inputs[slot] for slot in FACTORS.get(node.op, ()) if slot < len(node.inputs)]
        if any(isinstance(t, gs.Constant) and _is_tiny(t) for t in factors):
            found |= {t.name: None for t in factors if t.inputs}
    return list(found)


def _is_tiny(constant: gs.Constant) -> bool:
    array = values(constant).reshape(-1)
    if array.size < 2 or array.dtype.kind not in "fV":
        return False
    # A few entries tell almost always, and large weights take long to read.
    return all(bool(np.abs(part.astype(np.float32)).max() < TINY) for part in (array[:256], array))


def products(graph: gs.Graph) -> list[str]:
    """Outputs of at most `SAMPLED` matrix products and convolutions, spread over the graph."""
    made = [n.outputs[0].name for n in graph.nodes if n.op in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    return made[:: max(1, len(made) // SAMPLED)]


class _Pair:
    """The rewritten model and masked original number `number`, to be compared inside."""

    def __init__(
        self, model: Model, reference: Model, feeds: Feeds, claim: Claim, context: Context, number: int = 0
    ) -> None:
        self.models = model, reference
        self.feeds = feeds
        self.claim = claim
        self.context = context
        self.number = number
        self.producers = {t.name: node for node in model.graph.nodes for t in node.outputs if t.name}
        self.known = {t.name for node in reference.graph.nodes for t in node.outputs}

    def behind(self, silent: Sequence[str], names: Iterable[str]) -> tuple[int, float]:
        """Compare the tensors `names`, and what goes into `silent` ones, back to where something can be seen.

        Returns:
            The number of tensors compared and the largest error.
        """
        seen: set[str] = set(silent)
        queue = list(dict.fromkeys([*names, *self._sources(silent)]))[-MOST:]
        count, worst = 0, 0.0
        while queue and count < MOST:
            fresh = [name for name in queue if name not in seen]
            seen.update(fresh)
            quiet = []
            for name, error, is_quiet in self._compare(fresh):
                count, worst = count + 1, max(worst, error)
                quiet += [name] * is_quiet
            queue = self._sources(quiet)
        return count, worst

    def _sources(self, names: Iterable[str]) -> list[str]:
        """What the nodes that make these tensors read, as far as nodes made it."""
        nodes = [self.producers[name] for name in names if name in self.producers]
        return list(dict.fromkeys(t.name for node in nodes for t in node.inputs if t.name in self.producers))

    def _compare(self, names: Sequence[str]) -> Iterator[tuple[str, float, bool]]:
        """(name, error, whether it is constant) of each tensor that both models have, a few at a time."""
        both = [name for name in names if name in self.known]
        for at in range(0, len(both), AT_ONCE):
            chunk = both[at : at + AT_ONCE]
            found, expected = (self.run(which, chunk) for which in (0, 1))
            for name in chunk:
                left = self.left(name, expected.pop(name))
                if left is not None and left.dtype.kind in "fV":
                    yield name, distance(left, found.pop(name), FLOOR), _is_silent(left)

    def run(self, which: int, names: Sequence[str]) -> dict[str, Any]:
        """Tensors of the rewritten model (0) or of the reference (1)."""
        session = self.context.session(self.models[which], list(dict.fromkeys(names)), optimize=False)
        return session.run(self.feeds)

    def left(self, name: str, whole: Any) -> Any:
        """The kept entries of a tensor of the reference, where these are known."""
        return self.claim.kept(name, whole, self.number) if isinstance(whole, np.ndarray) else None
