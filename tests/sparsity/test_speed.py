"""Zeros until a model is fast enough, with kernels whose times are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from pruneopt.api import _zeros, make_context
from pruneopt.arrays import Array
from pruneopt.backends.ort import OnnxRuntime
from pruneopt.cli import main
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model, values
from pruneopt.passes.base import Outcome
from pruneopt.passes.pipeline import Pipeline
from pruneopt.passes.sparsify import Sparsify
from pruneopt.passes.sparsity.patterns import Pattern
from pruneopt.passes.sparsity.sites import LEVELS
from pruneopt.passes.statistics.consumers import Consumer
from tests import models
from tests.sparsity.test_sparsify import data, shared_outputs

LAYER = 2.0  # ms that each layer takes dense
REST = 3.0  # ms of all else
Feeds = Mapping[str, Any]
Tell = Callable[[str], None]


@dataclass
class Known:
    """Kernels that take a little, and more the more weights are kept; `odd` is one that is slow."""

    odd: str = ""
    asked: list[float] = field(default_factory=list)

    def times(self, model: Model, feeds: Feeds, tell: Tell) -> dict[str, float]:
        """By the name of what the node makes."""
        return {name: self.of(name, kept) for name, kept in kept_of(model).items() if kept < 0.75}

    def of(self, name: str, kept: float) -> float:
        """Milliseconds."""
        return 1.5 * LAYER if name == self.odd else LAYER * (0.1 + 1.2 * kept)

    def ratio(self, dense: Model, sparse: Model, feeds: Feeds, tell: Tell) -> float:
        """As the times say, dense where that is faster."""
        kept = kept_of(sparse)
        ms = sum(min(LAYER, self.of(n, k)) if k < 0.75 else LAYER for n, k in kept.items())
        self.asked.append((REST + ms) / (REST + LAYER * len(kept)))
        return self.asked[-1]


def kept_of(model: Model) -> dict[str, float]:
    """Share of each weight that is not zero, by the name of what its node makes."""
    found = {}
    for node in model.graph.nodes:
        if node.op in ("MatMul", "Gemm") and hasattr(node.inputs[1], "_values"):
            array = values(node.inputs[1])
            if min(array.shape) >= 16:
                found[node.outputs[0].name] = float((array != 0).mean())
    return found


@dataclass(frozen=True)
class Timed:
    """What the runtime says of its kernels."""

    times: list[tuple[str, float]]
    whole: float
    own: float = 1.0


class Backend(OnnxRuntime):
    """ONNX Runtime with times that are known."""

    def __init__(self, known: Known) -> None:
        self.known = known

    def zeros(self, target: str = "host", threads: int = 1) -> Any:
        """The known kernels."""
        return self.known

    def kernels(self, model: Model, feeds: Feeds, threads: int = 1, seconds: float = 0.2) -> Any:
        """Every layer takes as long."""
        made = kept_of(model)
        names = [n.name for n in model.graph.nodes if n.outputs[0].name in made]
        return Timed([(name, LAYER) for name in names], REST + LAYER * len(names))


def sparsified(
    share: float, known: Known, calibrated: bool = True, pattern: str = "16x1"
) -> tuple[Model, Outcome]:
    model = models.loaded(models.transformer(layers=1))
    context = make_context(model, data(model) if calibrated else None)
    context.backend = Backend(known)
    cut = Sparsify(pattern=pattern, latency=share, method="magnitude" if not calibrated else "wanda")
    return model, Pipeline((cut,)).run(model, context)


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("share", [0.7, 0.45])
def test_as_many_zeros_as_the_latency_needs(share: float, calibrated: bool) -> None:
    known = Known()
    _, made = sparsified(share, known, calibrated)
    (entry,) = made.entry["passes"]
    assert 0.8 * share < known.ratio(made.model, made.model, {}, print) <= share
    assert min(each["measured"] for each in entry["latency"]) <= share
    for node in made.model.graph.nodes:
        if node.outputs[0].name in kept_of(made.model):
            assert shared_outputs(values(node.inputs[1]).T)


def test_a_layer_whose_kernel_is_slow_stays_dense() -> None:
    model = models.loaded(models.transformer(layers=1))
    odd = next(iter(kept_of(model)))
    _, made = sparsified(0.6, Known(odd))
    kept = kept_of(made.model)
    assert kept.pop(odd) == 1.0
    assert min(kept.values()) < 0.5


def test_harmless_layers_get_no_more_zeros_than_harm_is_known_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond half of the weights that are left on average."""
    from pruneopt.passes import sparsify

    easy = "t27"

    def harm(consumer: Consumer, pattern: Pattern) -> Array:
        return LEVELS**2 * (1e-6 if consumer.name == easy else 1)

    monkeypatch.setattr(sparsify, "blind_harm", harm)
    _, made = sparsified(0.8, Known(), calibrated=False)
    assert max(each["sparsity"] for each in made.entry["passes"][0]["layers"]) < 0.8


def test_patterns_with_a_share_of_their_own_are_all_or_nothing() -> None:
    _, made = sparsified(0.8, Known(), pattern="2:4")
    kept = {round(share, 2) for share in kept_of(made.model).values()}
    assert kept == {0.5, 1.0}


def test_what_zeros_cannot_do() -> None:
    with pytest.raises(PruneoptError, match="zeros alone") as error:
        sparsified(0.05, Known())
    assert 0.05 < error.value.details["least"]["latency"] < 0.5  # type: ignore[index]


def test_options_that_contradict() -> None:
    with pytest.raises(UsageError, match="sparsity or latency"):
        Sparsify(0.5, latency=0.5)
    with pytest.raises(UsageError, match="between 0 and 1"):
        Sparsify(latency=1.5)


def test_what_the_command_line_means() -> None:
    """Latency goes to zeros where a target has kernels for them and nothing else says how many."""
    (timed,) = _zeros(None, "16x1", 0.5, "host")
    assert (timed.latency, timed.sparsity, timed.target) == (0.5, None, "host")
    (told,) = _zeros(0.8, "16x1", 0.5, "host")
    assert (told.latency, told.sparsity) == (None, 0.8)
    (plain,) = _zeros(None, "2:4", 0.5, None)
    assert plain.latency is None


def test_without_a_target_it_is_not_known_how_many(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    models.loaded(models.transformer(layers=1)).save(tmp_path / "a.onnx")
    given = [
        str(tmp_path / "a.onnx"),
        "-o",
        str(tmp_path / "b.onnx"),
        "--pattern",
        "16x1",
        "--latency",
        "0.5",
    ]
    assert main(given) == 2
    assert "--latency 0.5 --target host" in capsys.readouterr().err


def test_no_kernel_is_worth_it_above_half() -> None:
    _, made = sparsified(0.8, Known(), calibrated=False)
    kept = [*kept_of(made.model).values()]
    assert min(kept) < 1
    assert all(k == 1.0 or k <= 0.5 + 1 / 32 for k in kept)
