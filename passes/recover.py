"""Changes no shape: the pruned model learns from the original, on calibration inputs and without labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pruneopt.arrays import Feeds
from pruneopt.cache import cache_folder
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model, constants, values
from pruneopt.passes.base import Outcome
from pruneopt.passes.context import Context
from pruneopt.passes.learning.adapters import Full, Learner, LowRank
from pruneopt.passes.learning.net import Net, require_torch
from pruneopt.passes.learning.teaching import Teacher, lesson
from pruneopt.passes.learning.training import Budget, Course
from pruneopt.passes.statistics.stream import hold_out, split_batches
from pruneopt.passes.verify import fidelity

JUDGED = 64  # batches at most that are held out, however many there are


@dataclass(frozen=True)
class Recover:
    """Train the pruned model towards the original's outputs and hidden states (Hinton et al. 2015, Jiao et al. 2020).

    Every fifth batch, at most 64, is not learned from. The state that is best on these is kept, the first one included:
    on them the result is never worse. Where the runtime finds the outputs farther off than before, the input stays.

    Attributes:
        minutes: time to train, at most; 10 where no epochs are given.
        epochs: runs over the calibration data, at most; with epochs alone, two runs are equal.
        lr: learning rate, as a share of each weight's root mean square per step.
        lora: rank of adapters that learn instead of the weights and are folded into them; by default all weights learn.
        hidden: weight of the hidden states beside the outputs, 0 for none.
        batch: rows of a calibration batch at once, at most; small batches make more of the same data.
        checkpoint: file to go on from and to write to every half a minute; by default one in the cache folder, which is
            removed at the end.
        device: `cpu`, `cuda`, or by default `cuda` where there is one.
    """

    minutes: float | None = None
    epochs: int | None = None
    lr: float = 0.005
    lora: int | None = None
    hidden: float = 1.0
    batch: int = 8
    checkpoint: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("minutes", "epochs", "lr", "lora", "batch"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"recover: {name}={value:g} is not positive")
        if self.hidden < 0:
            raise UsageError(f"recover: hidden={self.hidden:g} is negative")

    def run(self, model: Model, context: Context) -> Outcome:
        """The trained model, or the model as it is where training does not help.

        Raises:
            UsageError: there is no calibration data.
            PruneoptError: PyTorch is missing, or lacks an op of the model.
        """
        if not context.calibration:
            raise UsageError("recover learns from inputs; give calibration data (--calib)")
        torch = require_torch("recover")
        original = context.original or model
        batches = split_batches(model, context.calibration, self.batch)
        with _threads(torch, context.threads):
            trained, course, hidden = self._train(original, model, batches, context)
        held = [batches[i] for i in parts(len(batches))[1]]
        before, after = (fidelity(context, original, each, held) for each in (model, trained))
        kept = course.losses.index(min(course.losses)) > 0 and not _farther(after, before)
        entry = {
            "losses": course.losses,
            "kept": kept,
            "stopped": course.why,
            "epochs": len(course.losses) - 1,
            "seconds": course.spent,
            "hidden_states": hidden,
            "held_out": {"before": before, "after": after if kept else before},
        }
        return Outcome(trained if kept else model, entry)

    def _train(
        self, original: Model, model: Model, batches: Sequence[Feeds], context: Context
    ) -> tuple[Model, Course, int]:
        from pruneopt.api import from_torch  # the way back belongs to the interface, as Model.to_torch does

        task, dense, net = lesson(original, model, batches[0], self.hidden, self._device())
        teacher, learner = Teacher(dense), self._learner(net, context.seed)
        key = self._key(model, batches, context.seed)
        place = Path(self.checkpoint) if self.checkpoint else _usual_place(key)
        fit, held = parts(len(batches))

        def loss(number: int) -> Any:
            feeds = batches[number]
            return task.loss(net.run(feeds, learner.changed()), teacher.of(number, feeds))

        course = Course(
            learner,
            loss,
            fit,
            held,
            self.lr,
            Budget(self.epochs, self.minutes if self.minutes or self.epochs else 10.0),
            context.seed,
            context.progress,
            place,
            key,
            self._device(),
        )
        course.run()
        if place is not None and not self.checkpoint:
            place.unlink(missing_ok=True)
        learner.fold()
        return from_torch(net.module.cpu()), course, len(task.hidden)

    def _learner(self, net: Net, seed: int) -> Learner:
        return Full(net) if self.lora is None else LowRank(net, self.lora, seed)

    def _device(self) -> str:
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise PruneoptError(
                "recover: device=cuda, but PyTorch finds no GPU; leave it out to train on the CPU"
            )
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    def _key(self, model: Model, batches: Sequence[Feeds], seed: int) -> str:
        """What a checkpoint is of; the budget may change between runs."""
        known = hashlib.sha256(repr((self.lr, self.lora, self.hidden, self.batch, seed)).encode())
        for constant in constants(model.graph):
            known.update(np.ascontiguousarray(values(constant)).tobytes())
        for feeds in batches:
            for name, array in sorted(feeds.items()):
                known.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return known.hexdigest()


def parts(count: int) -> tuple[list[int], list[int]]:
    """Numbers of the batches (to learn from, to judge on)."""
    return hold_out(range(count), max(5, -(-count // JUDGED)))


def _usual_place(key: str) -> Path | None:
    """The checkpoint of a training that nobody named a file for; None where the cache cannot be written to."""
    folder = cache_folder() / "trainings"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder / f"{key[:32]}.pt"


def _farther(after: dict[str, dict[str, float]], before: dict[str, dict[str, float]]) -> bool:
    """Whether the outputs' distances have grown in sum."""
    first, second = (sum(m["rel_l2"] for m in each.values()) for each in (before, after))
    return not second <= first


@contextmanager
def _threads(torch: Any, count: int) -> Iterator[None]:
    """So many threads for PyTorch, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
