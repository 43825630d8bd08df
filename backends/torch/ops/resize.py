"""Resize: along each axis every output entry is a weighted sum of a few input entries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pruneopt.backends.torch.table import op
from pruneopt.backends.torch.values import Setting, floats, ints

Array = npt.NDArray[np.float64]
F32 = np.float32


@op("Resize", settings=(1, 2, 3))
def resize(
    x: Tensor,
    roi: Setting = None,
    scales: Setting = None,
    sizes: Setting = None,
    *,
    antialias: int = 0,
    axes: list[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """x at other sizes along some axes, given as scales or as sizes."""
    places = list(range(x.dim())) if axes is None else [a % x.dim() for a in axes]
    targets, factors = _targets(x, places, scales, sizes, keep_aspect_ratio_policy)
    bounds = floats(roi) if roi is not None else []
    inside: Tensor | None = None
    for i, (place, length, factor) in enumerate(zip(places, targets, factors, strict=True)):
        old = x.shape[place]
        crop = coordinate_transformation_mode == "tf_crop_and_resize"
        if factor == 1 and length == old and not crop:
            continue
        window = (bounds[i], bounds[len(places) + i]) if crop else (0.0, 1.0)
        at = _coordinates(old, length, factor, coordinate_transformation_mode, window)
        index, weight = _taps(at, old, factor, mode, nearest_mode, cubic_coeff_a, exclude_outside, antialias)
        if crop:
            out = torch.from_numpy((at < 0) | (at > old - 1)).to(x.device)
            out = out.reshape([-1 if d == place else 1 for d in range(x.dim())])
            inside = out if inside is None else inside | out
        x = _weighted(x, place, index, weight)
    return x if inside is None else torch.where(inside, torch.full_like(x, extrapolation_value), x)


@op("Upsample", settings=(1,))
def upsample(x: Tensor, scales: Setting, *, mode: str = "nearest") -> Tensor:
    """The first form of Resize."""
    return resize(
        x, None, scales, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )


def _targets(
    x: Tensor, places: list[int], scales: Setting, sizes: Setting, policy: str
) -> tuple[list[int], list[float]]:
    """New sizes, and the factors that coordinates are divided by."""
    old = [x.shape[place] for place in places]
    asked = [] if sizes is None else ints(sizes)
    if not asked:
        factors = [float(F32(f)) for f in floats(scales)]
        return [int(np.floor(F32(n) * F32(f))) for n, f in zip(old, factors, strict=True)], factors
    if policy == "stretch":
        return asked, [float(F32(a) / F32(n)) for a, n in zip(asked, old, strict=True)]
    ratios = [a / n for a, n in zip(asked, old, strict=True)]
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    return [int(np.floor(ratio * n + 0.5)) for n in old], [float(F32(ratio))] * len(old)


def _coordinates(
    old: int, new: int, factor: float, transformation: str, window: tuple[float, float]
) -> Array:
    """Where in the input each output entry is read, in single precision as runtimes do it."""
    at, scale = np.arange(new, dtype=F32), F32(factor)
    if transformation == "align_corners":
        found = at * F32(old - 1) / F32(new - 1) if new > 1 else np.zeros(1, F32)
    elif transformation == "asymmetric":
        found = at / scale
    elif transformation == "pytorch_half_pixel" and new <= 1:
        found = np.zeros(new, F32)
    elif transformation == "half_pixel_symmetric":
        shift = F32(old / 2) * (1 - F32(new) / (scale * F32(old)))
        found = shift + (at + F32(0.5)) / scale - F32(0.5)
    elif transformation == "tf_crop_and_resize":
        start, end = window
        step = (end - start) * (old - 1) / (new - 1) if new > 1 else 0.0
        begin = start * (old - 1) if new > 1 else 0.5 * (start + end) * (old - 1)
        found = begin + at.astype(np.float64) * step
    else:
        found = (at + F32(0.5)) / scale - F32(0.5)
    return found.astype(np.float64)


def _taps(
    at: Array,
    size: int,
    factor: float,
    mode: str,
    nearest_mode: str,
    cubic: float,
    exclude: int,
    antialias: int,
) -> tuple[npt.NDArray[np.int64], Array]:
    """Positions and weights `taps new` of the entries that each output entry is made of."""
    if mode == "nearest":
        index = _nearest(at, nearest_mode)[None]
        return np.clip(index, 0, size - 1), np.ones(index.shape)
    stretch = min(factor, 1.0) if antialias else 1.0
    radius = (1 if mode == "linear" else 2) / stretch
    first = np.floor(at).astype(np.int64) - int(np.ceil(radius)) + 1
    index = first + np.arange(2 * int(np.ceil(radius)))[:, None]
    distance = np.abs(index - at) * stretch
    weight = np.maximum(0, 1 - distance) if mode == "linear" else _cubic(distance, cubic)
    if exclude:
        weight = weight * ((index >= 0) & (index < size))
    if exclude or antialias:
        weight = weight / weight.sum(0)
    return np.clip(index, 0, size - 1), weight


def _nearest(at: Array, rounding: str) -> npt.NDArray[np.int64]:
    functions: dict[str, Callable[[Array], Array]] = {
        "round_prefer_floor": lambda v: np.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: np.floor(v + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
        "simple": np.trunc,
    }
    found: npt.NDArray[np.int64] = functions[rounding](at).astype(np.int64)
    return found


def _cubic(distance: Array, a: float) -> Array:
    """Keys, 1981: cubic convolution interpolation."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _weighted(x: Tensor, place: int, index: npt.NDArray[np.int64], weight: Array) -> Tensor:
    """The sum over taps of entries times weights."""
    if len(index) == 1:
        return x.index_select(place, torch.from_numpy(index[0]).to(x.device))
    kind = x.dtype if x.is_floating_point() else torch.float32
    shape = [-1 if d == place else 1 for d in range(x.dim())]
    total: Tensor | None = None
    for positions, factors in zip(index, weight, strict=True):
        taken = x.index_select(place, torch.from_numpy(positions).to(x.device)).to(kind)
        term = taken * torch.from_numpy(factors).to(x.device, kind).reshape(shape)
        total = term if total is None else total + term
    assert total is not None
    return total if x.is_floating_point() else total.round().to(x.dtype)
