"""What one sparse kernel computes, and the knobs of how. Plain facts, no TVM."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

# Part of every record and kernel name: raise it when a template changes what it makes of the same knobs.
VERSION = 9
STRIP = 8  # outputs of a block whose sums are held in registers at the same time, where positions lie in the lanes


@dataclass(frozen=True)
class Image:
    """Geometry of a convolution with known spatial sizes; pairs are (height, width), padding (top, left)."""

    size: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilations: tuple[int, int] = (1, 1)

    @property
    def pointwise(self) -> bool:
        """Whether output positions are input positions, so that the image may be read as one column."""
        return (
            self.kernel == (1, 1)
            and self.strides == (1, 1)
            and self.padding == (0, 0)
            and self.size == self.out
        )


@dataclass(frozen=True)
class Layer:
    """y = act(x W' + bias), of rows [M, inputs] -> [M, outputs], or of images [B, C, H, W] where `image` is given.

    `inputs` and `outputs` are those of one of the `groups`; a convolution's inputs are its channels times its
    taps. `act` is an activation of `templates.activation` with its parameters.
    """

    inputs: int
    outputs: int
    groups: int = 1
    image: Image | None = None
    act: tuple[str, tuple[float, ...]] = ("", ())

    @property
    def channels(self) -> int:
        """Input channels of one group."""
        return self.inputs // self.taps

    @property
    def taps(self) -> int:
        return self.image.kernel[0] * self.image.kernel[1] if self.image else 1

    @property
    def depthwise(self) -> bool:
        """Whether it is a convolution of each channel by itself."""
        return self.image is not None and self.channels == 1

    def plain(self) -> Layer:
        """The same without what hardly changes the knobs: the activation."""
        return replace(self, act=("", ()))

    def key(self) -> str:
        """A short name of the shape, the same in every run."""
        return json.dumps(asdict(self.plain()), sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class Schedule:
    """The knobs of one kernel.

    Attributes:
        template: `outputs` puts neighbouring outputs into the lanes of a vector, `positions` rows or pixels;
            `lookup` outputs, each with inputs of its own.
        block: how many neighbouring outputs are worked off together; they share their zeros unless `mixed`.
        tile: rows, pixels (pointwise images) or lines (other images) that one unit of work covers.
        registers: rows (`outputs`, `lookup`) or vectors (`positions`) whose sums are held in registers.
        depth: inputs, or channels of an image, that are worked through at a time; 0 is all.
        span: blocks of outputs worked through for each `depth`; 0 is all.
        mixed: whether each output of a block has zeros of its own: what an input is multiplied by is read off a
            mask, for each of which there is a loop (`positions`).
        layout: how an image is read (`positions`): from a panel whose lines begin where vectors do (`aligned`), or
            follow each other without gaps (`tight`), or once for all columns of taps, with a loop for each, in which
            lanes beyond a line are masked out (`masked`); or where it lies (`inplace`; pointwise convolutions).
    """

    template: str
    block: int
    tile: int
    registers: int
    depth: int = 0
    span: int = 0
    mixed: bool = False
    layout: str = "aligned"

    def __post_init__(self) -> None:
        if self.mixed and self.layout == "masked":
            raise ValueError("entries are sorted by masks of outputs or of lanes, not both")

    @property
    def whole(self) -> bool:
        """Whether zeros are stored, too: the kernel looks no place up."""
        return self.template == "depthwise"

    @property
    def sliced(self) -> bool:
        """Whether each output of a block has entries of its own, in windows of inputs that slide on."""
        return self.template == "lookup"

    @property
    def strip(self) -> int:
        """Outputs whose values lie together."""
        return min(STRIP, self.block) if self.template == "positions" else self.block

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def digest(*parts: Any) -> str:
    """Twelve hexadecimal digits that stand for `parts`."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]
