"""The checker is not blind: a rule that is broken on purpose is caught, and soon."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError

from pruneopt.analysis import axes, masks, rules
from pruneopt.analysis.op import Op
from pruneopt.analysis.rules import contraction, indexing, movement
from pruneopt.errors import PruneoptError
from tests.fuzz.checks import check
from tests.fuzz.graphs import build

GRAPHS = 400
CAUGHT = (PruneoptError, AssertionError, ValidationError, InferenceError)


def concat_without_order(op: Op) -> None:
    """The parts of a concatenation the wrong way round."""
    terms, out = [t for t in op.inputs if t is not None], op.result()
    axis = op.attr("axis", 1) % len(out)
    for term in terms:
        op.equal_all(term[:axis] + term[axis + 1 :], out[:axis] + out[axis + 1 :])
    op.equal(op.concat([t[axis] for t in reversed(terms)]), out[axis])


def transpose_without_permutation(op: Op) -> None:
    """Dimensions of equal sizes keep their places, whatever the permutation says."""
    data, out = op.axes(0), op.result()
    perm = op.attr("perm", list(range(len(data)))[::-1])
    if [data[p].size for p in perm] == [d.size for d in data]:
        perm = range(len(data))
    for i, source in enumerate(perm):
        op.equal(out[i], data[source])


def reshape_without_target(op: Op) -> None:
    """A Reshape whose target keeps its sizes."""
    movement.reshape(op)
    op.witnesses.clear()


def conv_without_groups(op: Op) -> None:
    """A convolution whose `group` stays."""
    op.relate("b (g i) *, (g o) i *, (g o) -> b (g o) *", g=op.attr("group", 1))


def matmul_without_contraction(op: Op) -> None:
    """A product that does not say what it sums over."""
    contraction.matmul(op)
    op.contractions.clear()


def softmax_without_statistic(op: Op) -> None:
    """A softmax taken for an activation."""
    op.equal_all(op.axes(0), op.result())


def gather_of_anything(op: Op) -> None:
    """Entries picked by position taken for a run from the first."""
    data, index, out = op.axes(0), op.axes(1), op.result()
    axis = op.attr("axis", 0) % len(data)
    if op.constants[1] is None or len(index) != 1 or out[axis].size[0] > data[axis].size[0]:
        indexing.gather(op)
        return
    op.equal_all(data[:axis] + data[axis + 1 :], out[:axis] + out[axis + 1 :])
    op.equal(data[axis], op.concat([out[axis], op.fresh(data[axis].size[0] - out[axis].size[0])]))
    op.positions(1, data[axis])


BROKEN: list[tuple[str, Callable[[Op], None]]] = [
    ("Concat", concat_without_order),
    ("Transpose", transpose_without_permutation),
    ("Reshape", reshape_without_target),
    ("Conv", conv_without_groups),
    ("MatMul", matmul_without_contraction),
    ("Softmax", softmax_without_statistic),
    ("Gather", gather_of_anything),
]


@pytest.mark.parametrize(("op", "broken"), BROKEN, ids=[f.__name__ for _, f in BROKEN])
def test_a_broken_rule_is_caught(
    op: str, broken: Callable[[Op], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    rules.known_ops()  # loads the table
    monkeypatch.setitem(rules._TABLE, ("", op), [(1, broken)])
    assert _noticed(), f"{GRAPHS} graphs do not notice that the rule of {op} is broken"


def test_masks_of_products_the_wrong_way_round_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides of the comparison use these masks, and yet they cannot agree."""
    monkeypatch.setattr(masks, "factors", lambda axis: axes.factors(axis)[::-1])
    assert _noticed()


def _noticed() -> bool:
    for index in range(GRAPHS):
        random = Random(f"blind-{index}")
        try:
            check(build(random), random)
        except CAUGHT as error:
            print(f"graph {index}: {error}")
            return True
    return False
