"""The graphs compute what the published equations say, at any batch size and length."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pruneopt.api import make_context
from pruneopt.errors import UsageError
from pruneopt.model import Model
from pruneopt.passes.length import Length
from pruneopt.passes.proof import prove
from tests.models import loaded
from tests.passes.length.net import WIDTH, Encoder, Tokens, run
from tests.passes.length.references import evit, skipping, tome

Array = npt.NDArray[Any]


def shortened(encoder: Encoder, **options: Any) -> tuple[Model, dict[str, Any]]:
    """The encoder with fewer tokens, proved, and the report entry."""
    model = loaded(encoder.proto())
    context = make_context(model)
    outcome = Length(**options).run(model, context)
    assert outcome.claim is not None
    prove(outcome.model, outcome.claim, context)
    return outcome.model, outcome.entry


def outputs(model: Model, **feeds: Array) -> Array:
    """Output `y`."""
    from pruneopt.backends.session import Session

    return np.asarray(Session(model).run({k: v.astype(np.float32) for k, v in feeds.items()})["y"])


def inputs(batch: int, tokens: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((batch, tokens, WIDTH))


def back(tokens: Tokens) -> Array:
    """[T, outputs]: each original token's result is that of the token it went into."""
    found = np.zeros((sum(map(len, tokens.members)), tokens.x.shape[1]))
    for row, members in zip(tokens.x, tokens.members, strict=True):
        found[members] = row
    return found


def numbers(entry: dict[str, Any], run_index: int = -1) -> list[int]:
    return [stage["left"][run_index] for stage in entry["sites"][0]["stages"]]


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_merging_equals_the_equations(opset: int) -> None:
    """Keys, matching, weighted means and proportional attention, in each opset's own form of the ops."""
    encoder = Encoder(opset=opset)
    model, entry = shortened(encoder, r=4)
    assert numbers(entry) == [13, 9, 5]
    for batch in (1, 3):
        x = inputs(batch, 17)
        expected = np.stack([run(encoder.proto(), each, tome([4, 4, 4], 1)).x[0] for each in x])
        np.testing.assert_allclose(outputs(model, x=x), expected, rtol=1e-4, atol=1e-4)


def test_keys_may_have_batch_and_heads_in_one_dimension_and_scores_in_two() -> None:
    """As Keras writes an attention's einsum."""
    encoder = Encoder(folded=True)
    model, _ = shortened(encoder, r=4)
    x = inputs(3, 17)
    expected = np.stack([run(encoder.proto(), each, tome([4, 4, 4], 1)).x[0] for each in x])
    np.testing.assert_allclose(outputs(model, x=x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("read", ["first", "all", "mean"])
@pytest.mark.parametrize("tokens", [17, None])
def test_merging_wherever_tokens_are_read(read: str, tokens: int | None) -> None:
    """Class token, all tokens and their mean; a fixed number of tokens and any number."""
    encoder = Encoder(read=read, tokens=tokens)
    model, _ = shortened(encoder, left=0.5)
    for batch, length in [(1, 17), (2, 17)] if tokens else [(2, 17), (1, 24), (3, 5)]:
        x = inputs(batch, length)
        left = [1 + -(-(length - 1) * s // 10_000) for s in (8333, 6667, 5000)]
        removed = [a - b for a, b in zip([length, *left], left, strict=False)]
        found = outputs(model, x=x)
        for each, y in zip(x, found, strict=True):
            expected = run(encoder.proto(), each, tome(removed, 1))
            want = {"first": expected.x[0], "all": back(expected), "mean": back(expected).mean(0)}[read]
            np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("read", "by_first"), [("first", True), ("all", False)])
def test_dropping_equals_the_equations(read: str, by_first: bool) -> None:
    encoder = Encoder(read=read, layers=4)
    model, entry = shortened(encoder, keep=0.7, method="topk")
    left = numbers(entry)
    for batch in (1, 3):
        x = inputs(batch, 17)
        for each, y in zip(x, outputs(model, x=x), strict=True):
            expected = run(encoder.proto(), each, evit([None, *left], 1, by_first))
            want = expected.x[0] if read == "first" else back(expected)
            np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("read", "by_first"), [("first", True), ("all", False), ("mean", False)])
@pytest.mark.parametrize("tokens", [17, None])
def test_skipping_brings_dropped_tokens_back_as_they_were(
    read: str, by_first: bool, tokens: int | None
) -> None:
    encoder = Encoder(read=read, layers=4, tokens=tokens)
    model, entry = shortened(encoder, keep=0.6, method="topk", skip=True)
    stages = [stage["share"] for stage in entry["sites"][0]["stages"]]
    for batch, length in [(1, 17), (3, 17)] if tokens else [(2, 17), (1, 30)]:
        left = {
            layer: 1 + -(-(length - 1) * round(s * 10_000) // 10_000) for layer, s in enumerate(stages, 1)
        }
        x = inputs(batch, length)
        for each, y in zip(x, outputs(model, x=x), strict=True):
            expected = run(encoder.proto(), each, skipping(left, 3, 1, by_first)).x
            want = {"first": expected[0], "all": expected, "mean": expected.mean(0)}[read]
            np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["tome", "topk"])
def test_padding_changes_nothing(method: str) -> None:
    """Padding is neither kept over real tokens nor merged into them: only the number of stages' tokens differs."""
    encoder = Encoder(tokens=None, masked=True, read="first")
    model, _ = shortened(encoder, keep=0.8, method=method)
    x = inputs(2, 20)
    mask = np.ones((2, 20))
    mask[:, 14:] = 0
    noisy = x.copy()
    noisy[:, 14:] += 100 * inputs(2, 6, seed=9)
    a, b = (outputs(model, x=each, mask=mask) for each in (x, noisy))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["tome", "topk"])
def test_padding_goes_first(method: str) -> None:
    """While there is enough padding to remove, nothing else is: the result is that of the original."""
    encoder = Encoder(tokens=None, masked=True, read="first", layers=1)
    model, _ = shortened(encoder, left=0.75, method=method)
    x, mask = inputs(2, 24), np.ones((2, 24))
    mask[:, 8:] = 0
    whole = outputs(loaded(encoder.proto()), x=x, mask=mask)
    np.testing.assert_allclose(outputs(model, x=x, mask=mask), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["tome", "topk"])
@pytest.mark.parametrize("read", ["first", "all", "mean"])
def test_even_a_single_token_runs(method: str, read: str) -> None:
    encoder = Encoder(tokens=None, read=read, masked=True)
    model, _ = shortened(encoder, keep=0.5, method=method)
    x = inputs(2, 1)
    whole = outputs(loaded(encoder.proto()), x=x, mask=np.ones((2, 1)))
    np.testing.assert_allclose(outputs(model, x=x, mask=np.ones((2, 1))), whole, rtol=1e-4, atol=1e-4)


def test_all_tokens_kept_is_the_original() -> None:
    encoder = Encoder(read="all")
    model, _ = shortened(encoder, keep=1.0)
    x = inputs(2, 17)
    np.testing.assert_allclose(
        outputs(model, x=x), outputs(loaded(encoder.proto()), x=x), rtol=1e-4, atol=1e-5
    )


def test_only_dropped_tokens_can_skip() -> None:
    with pytest.raises(UsageError, match="method=topk"):
        Length(left=0.5, skip=True)
