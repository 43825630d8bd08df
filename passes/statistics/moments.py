"""Streaming first and second moments of the rows that a weight is applied to."""

from __future__ import annotations

import numpy as np

from pruneopt.arrays import Array

BLOCK = 1 << 23  # elements that are multiplied at once, about
LEAST = float(np.finfo(np.float32).tiny)  # a variance below is of numbers that single precision does not hold


class Moments:
    """Mean and centred second moment of rows z, and their cross moment with targets y.

    Rows may count differently. Blocks are multiplied in float32 around the first block's mean; sums are kept in
    float64.
    """

    def __init__(self) -> None:
        self._count = 0
        self._weight = 0.0
        self._held = 0
        self._block: list[tuple[Array, Array, Array]] = []
        self._shift: tuple[Array, Array] | None = None
        self._sum: list[Array] = []
        self._square = self._cross = np.zeros(())
        self._settled: Array | None = None

    def add(self, rows: Array, targets: Array | None = None, weights: Array | None = None) -> None:
        """Rows [groups, count, features], their targets [groups, count, outputs], and how much each counts [count]."""
        weights = np.ones(rows.shape[1], np.float32) if weights is None else weights
        self._block.append((rows, rows[:, :, :0] if targets is None else targets, weights[:, None]))
        self._held += rows.shape[1]
        if self._held * max(rows.shape[2], self._block[-1][1].shape[2]) >= BLOCK:
            self._flush()

    def settle(self) -> None:
        """Nothing more is added: from now on no rows are held, and the covariance in single precision only."""
        self._settled = self.covariance.astype(np.float32)
        self._square = np.zeros(())

    def _flush(self) -> None:
        if not self._block:
            return
        rows, y, weights = (np.concatenate(side, axis=-2) for side in zip(*self._block, strict=True))
        self._block, self._held = [], 0
        if self._shift is None:
            self._shift = (
                rows.mean(1, keepdims=True, dtype=np.float64).astype(np.float32),
                y.mean(1, keepdims=True, dtype=np.float64).astype(np.float32),
            )
            self._sum = [np.zeros(s[:, 0].shape) for s in self._shift]
        z, y = (x.astype(np.float32) - s for x, s in zip((rows, y), self._shift, strict=True))
        counted = [x * weights for x in (z, y)]
        self._sum = [s + x.sum(1, dtype=np.float64) for s, x in zip(self._sum, counted, strict=True)]
        self._square = self._square + counted[0].transpose(0, 2, 1) @ z
        self._cross = self._cross + counted[1].transpose(0, 2, 1) @ z
        self._count += rows.shape[1]
        self._weight += float(weights.sum(dtype=np.float64))

    @property
    def count(self) -> int:
        """Rows seen."""
        return self._count + self._held

    @property
    def mean(self) -> Array:
        """Mean row, float64, shape [groups, features]."""
        return self._mean(0)

    @property
    def target_mean(self) -> Array:
        """Mean target, float64, shape [groups, outputs]."""
        return self._mean(1)

    @property
    def covariance(self) -> Array:
        """E[(z - mean)(z - mean)^T], float64, shape [groups, features, features]."""
        if self._settled is not None:
            return self._settled.astype(np.float64)
        self._flush()
        d = self._sum[0] / self._weight
        found: Array = self._square / self._weight - d[:, :, None] * d[:, None]
        return found

    @property
    def cross(self) -> Array:
        """E[(y - mean)(z - mean)^T], float64, shape [groups, outputs, features]."""
        self._flush()
        z, y = (s / self._weight for s in self._sum)
        found: Array = self._cross / self._weight - y[:, :, None] * z[:, None]
        return found

    def _mean(self, which: int) -> Array:
        self._flush()
        assert self._shift is not None
        found: Array = self._shift[which][:, 0] + self._sum[which] / self._weight
        return found


def root(moment: Array, damping: float) -> Array:
    """L, lower triangular, with L L^T second moments and a share `damping` of their mean on the diagonal.

    Shape [..., d, d]. Where nothing varies, ones take the place of the moments.
    """
    size = moment.shape[-1]
    mean = np.trace(moment, axis1=-2, axis2=-1)[..., None, None] / size
    level = np.where(mean > LEAST, mean, 1.0)
    return np.asarray(
        np.linalg.cholesky(np.where(mean > LEAST, moment, 0.0) + damping * level * np.eye(size))
    )
