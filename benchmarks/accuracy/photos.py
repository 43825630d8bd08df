"""The twenty photographs from ImageNet that foolbox ships, with their labels."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def photos() -> list[tuple[Any, int]]:
    """(PIL image, ImageNet class) of each."""
    from PIL import Image

    spec = find_spec("foolbox")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install --no-deps foolbox==3.3.4; pip install pillow")
    files = sorted((Path(spec.submodule_search_locations[0]) / "data").glob("imagenet_*.jpg"))
    return [(Image.open(f).convert("RGB"), int(f.stem.split("_")[2])) for f in files]


def crop(photo: Any, side: int, scale: float, rng: np.random.Generator) -> Any:
    """A square cut out of a photo at random, mirrored or not, that covers `scale` of its area; side in pixels."""
    from PIL import Image, ImageOps

    size = max(1, round((scale * photo.width * photo.height) ** 0.5))
    size = min(size, photo.width, photo.height)
    left, top = (int(rng.integers(n - size + 1)) for n in photo.size)
    cut = photo.resize((side, side), Image.Resampling.BICUBIC, (left, top, left + size, top + size))
    return ImageOps.mirror(cut) if rng.integers(2) else cut


def pixels(image: Any) -> Array:
    """Shape [3, height, width], float32 in [0, 1]."""
    return np.ascontiguousarray(np.asarray(image, np.float32).transpose(2, 0, 1) / 255)
