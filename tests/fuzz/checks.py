"""What must hold of any graph at any masks; raises AssertionError that says what does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import onnx

from pruneopt.analysis.axes import Axis, atoms
from pruneopt.analysis.groups import find_groups, least_of
from pruneopt.analysis.infer import Analysis, analyse
from pruneopt.analysis.masks import Mask
from pruneopt.backends.ort import OnnxRuntime
from pruneopt.errors import PruneoptError
from pruneopt.model import Model
from pruneopt.passes.context import Context
from pruneopt.passes.distance import FLOOR, distance
from pruneopt.passes.proof import comparison_points, prove
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.rewriting.shrink import shrink
from pruneopt.passes.rounding import trembling
from pruneopt.passes.simplify import Simplify
from pruneopt.passes.verify import check_signature
from tests.fuzz.graphs import Array, Case, Feeds

TOLERANCE = 1e-5
INSIDE = 1e-4  # of inner tensors, some of which are differences of much larger ones
EXACT = 1e-6
TINY = 1e-30
NOISE = 30  # times what nudging the last bits does: an ill-conditioned graph, not a wrong one
FOLDED = 1e-5  # folding a BatchNormalization rounds its weights anew


@dataclass(frozen=True)
class Verdict:
    """What was checked: atoms that could shrink, atoms that did, and the largest relative error.

    `noisy` means that rounding alone moves an output that much, as that of a mean that is zero.
    """

    groups: int
    pruned: int
    coupled: int
    noisy: bool
    error: float


@dataclass(frozen=True)
class Subject:
    """A graph that was simplified and analysed, ready to be pruned."""

    model: Model
    simple: Model
    analysis: Analysis
    context: Context
    atoms: list[Axis]
    groups: int


def subject(case: Case) -> Subject:
    """Load, simplify (which must change nothing), analyse."""
    model = Model.from_proto(case.proto)
    before = model.proto().SerializeToString()
    context = Context(OnnxRuntime(), case.feeds[:2])
    simple = Simplify(idle=True).run(model, context).model
    same_outputs(context, model, simple, case.feeds)
    analysis = analyse(simple, context.observation(simple))
    assert model.proto().SerializeToString() == before, (
        "simplify or analyse changed the model that it was given"
    )
    groups = [g.atom for g in find_groups(analysis)]
    return Subject(model, simple, analysis, context, [*groups, *_others(analysis, groups)], len(groups))


def _others(analysis: Analysis, groups: Sequence[Axis]) -> list[Axis]:
    """Atoms of activations that are free, too, but touch no weight, in graph order."""
    derived = analysis.seen.values
    axes = [axis for name, dims in analysis.axes.items() if name not in derived for axis in dims]
    least = least_of(analysis)
    free = (
        a for axis in axes for a in atoms(axis) if not a.frozen and a.static and a.size[0] > least.get(a, 1)
    )
    return [a for a in dict.fromkeys(free) if a not in set(groups)]


def same_outputs(context: Context, a: Model, b: Model, feeds: Iterable[Feeds]) -> None:
    """Two models have the same outputs, but for rounding."""
    first, second = context.session(a, optimize=False), context.session(b, optimize=False)
    limit = FOLDED if any(n.op == "BatchNormalization" for n in a.graph.nodes) else EXACT
    for batch in feeds:
        expected, found = first.run(batch), second.run(batch)
        for name, value in expected.items():
            assert value.shape == found[name].shape, f"simplify changed the shape of '{name}'"
            both = np.isnan(value) & np.isnan(found[name])  # 0 / 0 under a norm of one entry
            scale = max(float(np.abs(np.where(both, 0, value)).max(initial=0)), 1.0)
            worst = float(np.abs(np.where(both, 0, value - found[name])).max(initial=0)) / scale
            assert worst <= limit, f"simplify changed '{name}' by {worst:.1e}"


def draw_masks(random: Random, subject: Subject, share: float = 0.6) -> dict[Axis, Mask]:
    """Masks of a random subset of atoms, as many entries kept of each as must be; never none at all."""
    masks = {}
    free, least = subject.atoms, least_of(subject.analysis)
    for axis in free:
        if random.randrange(100) < round(100 * share):
            masks[axis] = _mask(random, axis.size[0], least.get(axis, 1))
    if free and not masks:
        masks[free[0]] = _mask(random, free[0].size[0], least.get(free[0], 1))
    return masks


def _mask(random: Random, size: int, least: int) -> Mask:
    keep = np.zeros(size, bool)
    keep[random.sample(range(size), least - 1)] = True
    while keep.sum() < least:
        keep[random.randrange(size)] = True
    for _ in range(random.randrange(size - 1)):
        keep[random.randrange(size)] = True
    return keep


def check_masks(case: Case, subject: Subject, masks: dict[Axis, Mask]) -> Verdict:
    """Shrink by `masks` and check everything that must hold of the result."""
    before = subject.simple.proto().SerializeToString()
    small = shrink(subject.analysis, masks)
    assert subject.simple.proto().SerializeToString() == before, "shrink changed the model that it was given"
    onnx.checker.check_model(small.proto(), full_check=True)
    check_signature(subject.model, small)
    claim = Masked(subject.analysis, masks)
    proof = prove(small, claim, subject.context, float("inf"))
    noisy = proof.max_rel_error > TOLERANCE
    if noisy:
        ends = comparison_points(small.graph)
        limit = NOISE * max(wobble(subject.context, *pair, ends, TINY) for pair in claim.references())
        assert proof.max_rel_error <= limit, (
            f"outputs differ by {proof.max_rel_error:.1e} from the masked original's"
        )
    inside = same_inside(subject, small, claim)
    _same_shapes(subject, small, case.feeds[2])
    coupled = sum(axis.coupled is not None for axis in masks)
    error = inside if noisy else max(proof.max_rel_error, inside)
    return Verdict(len(subject.atoms), len(masks), coupled, noisy, error)


def same_inside(subject: Subject, small: Model, claim: Masked) -> float:
    """Every inner tensor that both models have is the same in its kept entries; returns the largest error."""
    made = {t.name for n in small.graph.nodes for t in n.outputs if t.name}
    names = [t.name for n in subject.simple.graph.nodes for t in n.outputs if t.name in made]
    session, worst = subject.context.session(small, names, optimize=False), 0.0
    for run, (reference, feeds) in enumerate(claim.references()):
        expected = subject.context.session(reference, names, optimize=False).run(feeds)
        found = session.run(feeds)
        for name in names:
            left = claim.kept(name, expected[name], run) if expected[name].dtype.kind == "f" else None
            if left is not None:
                error = distance(left, found[name], FLOOR)
                if error > INSIDE:
                    limit = NOISE * wobble(subject.context, reference, feeds, [name], FLOOR)
                    assert error <= limit, f"inner tensor '{name}' differs by {error:.1e}"
                worst = max(worst, error)
    return worst


def wobble(
    context: Context, model: Model, feeds: Mapping[str, Array], names: Sequence[str], floor: float
) -> float:
    """How far tensors move when weights and inputs do by a last bit: what rounding may do to them."""
    before, after = trembling(model, feeds, names, context)
    return max(distance(before[name], after[name], floor) for name in names)


def _same_shapes(subject: Subject, small: Model, feeds: Feeds) -> None:
    """The optimised result runs at a size that was never observed."""
    try:
        expected = subject.context.session(subject.model).run(feeds)
    except PruneoptError:  # the runtime's own optimiser breaks the graph before anything was done to it
        return
    found = subject.context.session(small).run(feeds)
    for name, value in expected.items():
        assert found[name].shape == value.shape, f"'{name}' has another shape at a new size"


def check(case: Case, random: Random) -> Verdict:
    """All of it, at masks drawn from `random`."""
    ready = subject(case)
    if not ready.atoms:
        return Verdict(0, 0, 0, False, 0.0)
    return check_masks(case, ready, draw_masks(random, ready))
