"""Fashion-MNIST: the images, and what trains a network on them once; score is the top-1 accuracy."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.exported import export_batched
from benchmarks.accuracy.task import Feeds, Run, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = npt.NDArray[Any]
DATA = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package puts them
SEED = 5
MEAN, SPREAD = 0.286, 0.353
SAMPLES = 512  # training images to calibrate on
BATCH = 125


def images(part: str) -> tuple[Array, Array]:
    """Images [count, 1, 28, 28], normalised float32, and labels [count] of `train` or `t10k`."""
    if not DATA.is_dir():
        raise SystemExit("apt-get install dataset-fashion-mnist (or unpack that Debian package)")
    pixels = _bytes(f"{part}-images-idx3-ubyte.gz", 16)
    labels = _bytes(f"{part}-labels-idx1-ubyte.gz", 8)
    scaled = ((pixels / 255 - MEAN) / SPREAD).astype(np.float32)
    return scaled.reshape(-1, 1, 28, 28), labels.astype(np.int64)


def _bytes(file: str, header: int) -> Array:
    return np.frombuffer(gzip.decompress((DATA / file).read_bytes()), np.uint8, offset=header)


def fashion(name: str, cache: Path, build: Callable[[], nn.Module], epochs: int) -> Task:
    """The task of a network that `build` makes: trained and exported the first time, then read from `cache`."""
    path, weights = cache / f"{name}.onnx", cache / f"{name}.pt"
    if not path.exists():
        export(train(build(), epochs, weights), path)
    pick = np.random.default_rng(SEED).permutation(60_000)[:SAMPLES]
    seen, (test, labels) = images("train")[0][pick], images("t10k")
    held: list[Feeds] = [{"image": test[i : i + BATCH]} for i in range(0, len(test), BATCH)]
    return Task(
        name,
        path,
        [{"image": seen[i : i + 32]} for i in range(0, SAMPLES, 32)],
        {"test": held},
        lambda run: {"top1": accuracy(run, held, labels)},
        "kl",
        lambda: _with_classifier(train(build(), epochs, weights)),
    )


def _with_classifier(net: nn.Module) -> tuple[nn.Module, list[nn.Module]]:
    return net, [list(net.modules())[-1]]


def accuracy(run: Run, held: list[Feeds], labels: Array) -> float:
    """Share of the images whose largest logit is that of their label."""
    found = np.concatenate([run(batch).argmax(-1) for batch in held])
    return float((found == labels).mean())


def train(net: nn.Module, epochs: int, weights: Path, batch: int = 128, rate: float = 2e-3) -> nn.Module:
    """The network in eval mode, trained on shifted and mirrored images, or with `weights` where they are kept.

    A training that was broken off goes on after its last whole epoch.
    """
    import torch
    from torch.nn import functional as F

    torch.manual_seed(SEED)
    steps = epochs * (60_000 // batch)
    optimiser = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    parts = {"net": net, "optimiser": optimiser, "schedule": schedule}
    done = 0
    if weights.exists():
        kept = torch.load(weights)
        done = kept["epoch"]
        for name, part in parts.items():
            part.load_state_dict(kept[name])
    pixels, labels = map(torch.from_numpy, images("train"))
    net = net.to(memory_format=torch.channels_last)
    for epoch in range(done, epochs):
        total = 0.0
        net.train()
        for x, y in _batches(pixels, labels, batch, epoch):
            loss = F.cross_entropy(net(x), y, label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item() / (60_000 // batch)
        print(f"{weights.stem}: epoch {epoch + 1} of {epochs}, loss {total:.3f}", flush=True)
        torch.save({k: p.state_dict() for k, p in parts.items()} | {"epoch": epoch + 1}, weights)
    return net.eval()


def _batches(pixels: Tensor, labels: Tensor, size: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole batches in random order, each half of one mirrored or not and moved by up to a pixel."""
    import torch
    from torch.nn import functional as F

    generator = torch.Generator().manual_seed(SEED + epoch)
    order = torch.randperm(len(pixels), generator=generator)
    for at in range(0, len(order) - size + 1, size):
        pick = order[at : at + size]
        dark = -MEAN / SPREAD
        padded = F.pad(pixels[pick], (1, 1, 1, 1), value=dark)
        i, j, mirrored = (int(torch.randint(0, n, (), generator=generator)) for n in (3, 3, 2))
        # Half of a batch is moved one way and half the other, so that no batch is all of one kind.
        a, b = padded[: size // 2, :, i : i + 28, j : j + 28], padded[size // 2 :, :, j : j + 28, i : i + 28]
        moved = torch.cat([a.flip(-1), b] if mirrored else [a, b.flip(-1)])
        yield moved, labels[pick]


def export(net: nn.Module, path: Path) -> None:
    """ONNX with a dynamic batch: input `image` [batch, 1, 28, 28], output `logits` [batch, 10]."""
    export_batched(net, (1, 28, 28), path, "image", "logits")
