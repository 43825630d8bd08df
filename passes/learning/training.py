"""AdamW with warm-up and cosine decay until time or epochs are over, or nothing gets better on held-out batches."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruneopt.errors import PruneoptError
from pruneopt.passes.learning.adapters import Learner

WARM_UP = 0.05  # share of the whole
CLIP = 1.0  # of a gradient's norm
PAUSE = 30.0  # seconds between two writes of a checkpoint
PATIENCE = 8  # epochs without a better held-out loss


@dataclass(frozen=True)
class Budget:
    """How long to train: `epochs`, or as many as fit into `minutes`. Only epochs make two runs equal."""

    epochs: int | None
    minutes: float | None

    def share(self, epoch: float, seconds: float) -> float:
        """Share of the budget that is spent, in [0, 1]."""
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        by_count = epoch / self.epochs if self.epochs else 0.0
        return min(1.0, max(by_time, by_count))


@dataclass
class Course:
    """A training.

    Attributes:
        learner: what learns.
        loss: of batch number i, a scalar tensor.
        fit, held: numbers of the batches to learn from and to judge on.
        rate: learning rate, as a share of each weight's root mean square.
        budget: how long.
        seed: of the order of batches.
        say: told about every epoch.
        checkpoint: file to go on from, written between two steps every half a minute, if any.
        key: what the training is of; a checkpoint of another one is refused.
        device: `cuda` trains in bfloat16 where that is safe (autocast).
        losses: held-out loss before the first and after each epoch.
    """

    learner: Learner
    loss: Callable[[int], Any]
    fit: Sequence[int]
    held: Sequence[int]
    rate: float
    budget: Budget
    seed: int
    say: Callable[[str], None]
    checkpoint: Path | None = None
    key: str = ""
    device: str = "cpu"
    losses: list[float] = field(default_factory=list)
    spent: float = 0.0
    why: str = "the budget was spent"
    _best: list[Any] = field(default_factory=list)
    _step: int = 0  # of the epoch, to come next
    _written: float = 0.0

    def run(self) -> None:
        """Train, and leave the learner in its best state on the held-out batches, the first one included."""
        import torch

        optimiser = torch.optim.AdamW(self.learner.groups(self.rate), weight_decay=0.0, fused=True)
        rates = [group["lr"] for group in optimiser.param_groups]
        self._start(optimiser)
        begin = time.monotonic() - self.spent
        try:
            while self.budget.share(len(self.losses) - 1, self.spent) < 1 and not self._stuck():
                self._epoch(optimiser, rates, begin)
                self._judge(begin)
                self._write(optimiser, begin)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(self._way_on()) from None
        with torch.no_grad():
            for part, best in zip(self.learner.parts(), self._best, strict=True):
                part.copy_(best)

    def _epoch(self, optimiser: Any, rates: Sequence[float], begin: float) -> None:
        import torch

        epoch = len(self.losses) - 1
        order = torch.randperm(
            len(self.fit), generator=torch.Generator().manual_seed(self.seed * 9973 + epoch)
        )
        for step, place in [*enumerate(order.tolist())][self._step :]:
            share = self.budget.share(epoch + step / len(order), time.monotonic() - begin)
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(share)
            if share >= 1:
                return
            optimiser.zero_grad()
            with self._cast():
                loss = self.loss(self.fit[place])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.learner.parts(), CLIP, error_if_nonfinite=False)
            if torch.isfinite(loss):
                optimiser.step()
            self._step = step + 1
            self._write(optimiser, begin)

    def _judge(self, begin: float) -> None:
        self._step = 0
        self.spent = time.monotonic() - begin
        loss = self._held_loss()
        if not loss >= min(self.losses):
            self._best = self._copies()
        self.losses.append(loss)
        share = self.budget.share(len(self.losses) - 1, self.spent)
        left = self.spent * (1 - share) / max(share, 1e-9)
        self.say(
            f"recover: epoch {len(self.losses) - 1}, held-out loss {loss:.4g} "
            f"(first {self.losses[0]:.4g}, best {min(self.losses):.4g}), {left / 60:.1f} min left"
        )

    def _held_loss(self) -> float:
        import torch

        with torch.no_grad(), self._cast():
            total = sum(float(self.loss(number)) for number in self.held) / len(self.held)
        return total if math.isfinite(total) else math.inf

    def _stuck(self) -> bool:
        stuck = len(self.losses) - 1 - self.losses.index(min(self.losses)) >= PATIENCE
        if stuck:
            self.why = f"no better in {PATIENCE} epochs"
        return stuck

    def _copies(self) -> list[Any]:
        return [part.detach().clone() for part in self.learner.parts()]

    def _cast(self) -> Any:
        import torch

        return torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda")

    def _start(self, optimiser: Any) -> None:
        """At the beginning, or where the checkpoint was written."""
        import torch

        if self.checkpoint is None or not self.checkpoint.exists():
            begin = time.monotonic()
            self.losses, self._best = [self._held_loss()], self._copies()
            self.spent = time.monotonic() - begin  # for a large model this is a good part of the budget
            return
        try:
            kept = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        except Exception as error:  # whatever a broken file makes of unpickling
            raise PruneoptError(f"recover: checkpoint {self.checkpoint} cannot be read: {error}") from error
        if kept.get("key") != self.key:
            raise PruneoptError(
                f"recover: checkpoint {self.checkpoint} is of another model, data or options; remove it"
            )
        with torch.no_grad():
            for part, saved in zip(self.learner.parts(), kept["parts"], strict=True):
                part.copy_(saved)
        optimiser.load_state_dict(kept["optimiser"])
        self.losses, self.spent, self._best = kept["losses"], kept["spent"], kept["best"]
        self._step, self._written = kept["step"], self.spent

    def _way_on(self) -> str:
        """What to say to whoever stops a training."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return "recover had kept nothing yet"
        return f"the same command goes on with recover from {self.checkpoint}"

    def _write(self, optimiser: Any, begin: float) -> None:
        """The state now and then; the old file stays until the new one is whole."""
        import torch

        spent = time.monotonic() - begin
        if self.checkpoint is None or spent - self._written < PAUSE:
            return
        self._written = spent
        state = {
            "key": self.key,
            "parts": self._detached(),
            "best": self._best,
            "optimiser": optimiser.state_dict(),
            "losses": self.losses,
            "spent": spent,
            "step": self._step,
        }
        new = self.checkpoint.with_name(f"{self.checkpoint.name}.new")
        torch.save(state, new)
        os.replace(new, self.checkpoint)

    def _detached(self) -> list[Any]:
        return [part.detach() for part in self.learner.parts()]


def schedule(share: float) -> float:
    """Factor of the learning rate when `share` of the training is done: up in a line, down in a cosine to zero."""
    if share < WARM_UP:
        return (share + 0.1 * WARM_UP) / (1.1 * WARM_UP)
    return 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))
