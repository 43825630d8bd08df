"""demosaicnet: full colour from a Bayer mosaic, on crops of the photographs that foolbox ships; score is the PSNR."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.exported import export_batched
from benchmarks.accuracy.photos import photos, pixels
from benchmarks.accuracy.task import Feeds, Run, Task

Array = npt.NDArray[Any]
SEED = 4
SIDE = 128
EDGE = 32  # pixels that the network loses on each side, at least
SEEN, HELD = 6, 4  # crops of each photograph


def task(cache: Path) -> Task:
    """Crops of ten photographs to calibrate on, and of the ten others to judge by."""
    path = cache / "demosaic.onnx"
    if not path.exists():
        export(path)
    rng = np.random.default_rng(SEED)
    every = [pixels(photo) for photo, _ in photos()]
    seen = [_cut(photo, rng) for photo in every[::2] for _ in range(SEEN)]
    held = [_cut(photo, rng) for photo in every[1::2] for _ in range(HELD)]
    order = rng.permutation(len(seen))
    return Task(
        "demosaic",
        path,
        _batches([bayer(seen[i]) for i in order]),
        {"crops": _batches([bayer(each) for each in held])},
        lambda run: {"psnr": psnr(run, held)},
        "sample",
        lambda: _with_output(network()),
    )


def bayer(image: Array) -> Array:
    """What a sensor sees of an image [3, height, width]: green, red / blue, green; zero elsewhere."""
    seen = np.zeros_like(image)
    seen[1, ::2, ::2], seen[0, ::2, 1::2] = image[1, ::2, ::2], image[0, ::2, 1::2]
    seen[2, 1::2, ::2], seen[1, 1::2, 1::2] = image[2, 1::2, ::2], image[1, 1::2, 1::2]
    return seen


def psnr(run: Run, images: list[Array]) -> float:
    """Mean over the images, in dB, of the part that the network gives out."""
    found = []
    for image in images:
        made = run({"mosaic": bayer(image)[None]})[0]
        edges = [(n - m) // 2 for n, m in zip(image.shape[1:], made.shape[1:], strict=True)]
        (top, left), (height, width) = edges, made.shape[1:]
        wanted = image[:, top : top + height, left : left + width]
        found.append(-10 * math.log10(float(np.square(np.clip(made, 0, 1) - wanted).mean())))
    return float(np.mean(found))


def network() -> Any:
    """The released Bayer network."""
    try:
        from demosaicnet import BayerDemosaick  # type: ignore[import-not-found]
    except ImportError as error:
        raise SystemExit("pip install --no-deps demosaicnet==0.0.14 imageio wget") from error
    return BayerDemosaick().eval()


def _with_output(net: Any) -> tuple[Any, list[Any]]:
    return net, [net.fullres_processor.output]


def export(path: Path) -> None:
    """ONNX with a dynamic batch: input `mosaic` [batch, 3, 128, 128], output `colour`."""
    export_batched(network(), (3, SIDE, SIDE), path, "mosaic", "colour")


def _cut(photo: Array, rng: np.random.Generator) -> Array:
    top, left = (2 * int(rng.integers((n - SIDE) // 2 + 1)) for n in photo.shape[1:])
    return photo[:, top : top + SIDE, left : left + SIDE]


def _batches(mosaics: list[Array]) -> list[Feeds]:
    return [{"mosaic": np.stack(mosaics[i : i + 10])} for i in range(0, len(mosaics), 10)]
