"""Gradients of a loss by every weight, sample by sample, as the sums that criteria ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pruneopt.arrays import Array, Feeds
from pruneopt.model import Model
from pruneopt.passes.learning.losses import loss_of
from pruneopt.passes.learning.net import Net, require_torch
from pruneopt.passes.statistics.stream import split_batches

SAMPLES = 64  # LLM-Pruner takes 10


@dataclass
class Sums:
    """What the gradients g of one weight w were, over the samples.

    Attributes:
        mean: mean of g, shape of w.
        square: mean of g^2, shape of w.
        absolute: mean of |g|, shape of w.
        products: per dimension of w the sum of w g over all other dimensions, for each sample; [samples, size].
    """

    weight: Array
    mean: Array = field(init=False)
    square: Array = field(init=False)
    absolute: Array = field(init=False)
    products: list[list[Array]] = field(init=False)

    def __post_init__(self) -> None:
        self.mean, self.square, self.absolute = (np.zeros_like(self.weight) for _ in range(3))
        self.products = [[] for _ in range(self.weight.ndim)]

    def add(self, gradient: Array, share: float) -> None:
        """One sample, which is that share of all."""
        self.mean += gradient * share
        self.square += np.square(gradient) * share
        self.absolute += np.abs(gradient) * share
        product = self.weight * gradient
        for dim, kept in enumerate(self.products):
            others = tuple(d for d in range(product.ndim) if d != dim)
            kept.append(product.sum(others, dtype=np.float64))


@dataclass(frozen=True)
class Gradients:
    """Sums for every weight of a model.

    Attributes:
        sums: name of the weight in the model -> its sums.
        batches: number of the batch that each sample was in, shape [samples].
    """

    sums: dict[str, Sums]
    batches: Array


def gradients(
    model: Model, batches: Sequence[Feeds], loss: str | None = None, seed: int = 0, most: int = SAMPLES
) -> Gradients:
    """Gradients of `loss` (see `losses.loss_of`) at the model's weights for the first `most` samples.

    A sample is a row of a batch where the model's batch is dynamic, else a batch. What the loss does not depend on
    has zeros. Raises PruneoptError where PyTorch is missing or lacks an op of the model.
    """
    torch = require_torch("a criterion of gradients")
    net, chosen = Net(model), loss_of(loss, model, seed)
    samples = list(_samples(model, batches, most))
    weights = net.weights
    sums = {name: Sums(w.detach().numpy().copy()) for name, w in weights.items()}
    for _, feeds in samples:
        value = chosen(net.run(feeds), feeds)
        found = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
        for name, gradient in zip(weights, found, strict=True):
            array = np.zeros_like(sums[name].weight) if gradient is None else gradient.numpy()
            sums[name].add(array, 1 / len(samples))
    return Gradients(sums, np.array([batch for batch, _ in samples], np.int64))


def _samples(model: Model, batches: Sequence[Feeds], most: int) -> Iterator[tuple[int, Feeds]]:
    """(number of the batch, sample), spread over the batches."""
    share = -(-most // max(len(batches), 1))
    count = 0
    for i, feeds in enumerate(batches):
        for piece in split_batches(model, [feeds], 1)[:share]:
            if count < most:
                yield i, piece
            count += 1
