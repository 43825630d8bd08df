"""The rows that a weight is applied to: flattened tokens, or the windows of a convolution at sampled places."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from pruneopt.arrays import Array
from pruneopt.passes.statistics.consumers import Consumer

Index = npt.NDArray[np.int64]


PLENTY = 100  # rows per feature: a fit to more is better by a hundredth of its error
FEWEST = 2048  # rows, as far as there are some


def rows_for(features: int, samples: int) -> int:
    """Rows to fit so many features on: as many as help, `samples` at most, but eight per feature in any case."""
    return max(8 * features, min(samples, max(FEWEST, PLENTY * features)))


def pick(count: int, most: int, valid: Array | None, seed: Sequence[int], name: str) -> Index:
    """At most `most` of `count` places, those of padding left out where that is known, ascending."""
    all_ = np.arange(count) if valid is None or len(valid) != count else np.flatnonzero(valid)
    if len(all_) <= most:
        return all_
    rng = np.random.default_rng([*seed, zlib.crc32(name.encode())])
    return np.sort(rng.choice(all_, most, replace=False))


@dataclass(frozen=True)
class Sampler:
    """Picks the same places of a consumer's output each time it is asked.

    Attributes:
        consumer: whose rows.
        most: number of rows over all batches, about.
        valid: per batch the tokens that are not padding, where that is known.
        seed: of the choice.
    """

    consumer: Consumer
    most: int
    valid: Sequence[Array | None]
    seed: int

    def places(self, batch: int, count: int) -> Index:
        """Which of `count` output places of batch number `batch` are used, ascending."""
        share = max(1, -(-self.most // len(self.valid)))
        valid = self.valid[batch] if self.consumer.slot else None  # columns are not tokens
        return pick(count, share, valid, [self.seed, batch], self.consumer.data)

    def rows(self, batch: int, data: Array) -> Array:
        """Rows of the weight's input `data`, shape [groups, sampled, features]."""
        if self.consumer.node.op != "Conv":
            return self._flat(batch, data)
        return self.consumer.seen(windows(self.consumer, data, lambda count: self.places(batch, count)))

    def targets(self, batch: int, output: Array) -> Array:
        """Rows of a tensor shaped like the node's output, shape [groups, sampled, outputs]."""
        if self.consumer.node.op != "Conv":
            return self._flat(batch, output)
        flat = np.moveaxis(output, 1, -1).reshape(-1, output.shape[1])
        picked: Array = flat[self.places(batch, len(flat))]
        return np.asarray(picked.reshape(len(picked), self.consumer.groups, -1).transpose(1, 0, 2))

    def _flat(self, batch: int, array: Array) -> Array:
        """Sampled rows of a product's operand or output, or columns where the weight comes first."""
        turned = self.consumer.slot == 0 and array.ndim > 1
        along = np.swapaxes(array, -1, -2) if turned else array
        flat = along.reshape(-1, along.shape[-1])
        return np.asarray(flat[self.places(batch, len(flat))][None])


def windows(consumer: Consumer, data: Array, choose: Callable[[int], Index]) -> Array:
    """Windows of a convolution's input at chosen output places, shape [groups, chosen, channels * window].

    `choose(count)` gives the chosen places out of `count`, which run over the batch and the output's positions.
    """
    node = consumer.node
    kernel = consumer.use.constant.shape[2:]
    strides = _attribute(node, "strides", [1] * len(kernel))
    dilations = _attribute(node, "dilations", [1] * len(kernel))
    before, after = _pads(node, data.shape[2:], kernel, strides, dilations)
    padded = np.pad(data, [(0, 0), (0, 0), *zip(before, after, strict=True)])
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    out = [(n - s) // t + 1 for n, s, t in zip(padded.shape[2:], span, strides, strict=True)]
    chosen = choose(data.shape[0] * int(np.prod(out)))
    batch, *corner = np.unravel_index(chosen, (data.shape[0], *out))
    channels_last = np.moveaxis(padded, 1, -1)
    places = [(batch, *tap) for tap in _taps(corner, kernel, strides, dilations)]
    taps = [channels_last[place] for place in places]
    stacked = np.stack(taps, axis=-1)  # [chosen, channels, window]
    grouped: Array = stacked.reshape(len(chosen), consumer.groups, -1)
    return np.asarray(grouped.transpose(1, 0, 2))


def _taps(
    corner: Sequence[Index], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Iterator[list[Index]]:
    for tap in np.ndindex(*kernel):
        yield [c * s + t * d for c, s, t, d in zip(corner, strides, tap, dilations, strict=True)]


def _pads(
    node: gs.Node,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial dimension."""
    mode = node.attrs.get("auto_pad", "NOTSET")
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        pads = _attribute(node, "pads", [0] * 2 * len(kernel)) if mode == "NOTSET" else [0] * 2 * len(kernel)
        return pads[: len(kernel)], pads[len(kernel) :]
    steps = zip(sizes, kernel, strides, dilations, strict=True)
    whole = [max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n) for n, k, s, d in steps]
    small, large = [w // 2 for w in whole], [w - w // 2 for w in whole]
    return (small, large) if mode == "SAME_UPPER" else (large, small)


def _attribute(node: gs.Node, name: str, default: list[int]) -> list[int]:
    return list(node.attrs.get(name) or default)
