"""Lines of text for a recogniser: drawn as images, and read back from what it makes of them.

Images are float32 [lines, 3, 48, width] in [-1, 1], as PP-OCR wants them; words come from a text that does not
change, this project's licence.
"""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Array: TypeAlias = npt.NDArray[Any]
WIDTHS = (160, 240, 320)  # pixels; a batch has one width
HEIGHT, BATCH, EDGE = 48, 8, 12


def words(page: Path) -> list[str]:
    """The words of a text, each once, in a fixed order."""
    found = sorted(set(re.findall(r"\b[A-Za-z]{2,}\b[,.;:]?", page.read_text("utf-8"))))
    return [str(word) for word in np.random.default_rng(1).permutation(found)]


def drawn(vocabulary: Sequence[str], count: int, seed: int) -> tuple[list[Array], list[str]]:
    """`count` lines in batches, and what they say."""
    rng = np.random.default_rng(seed)
    images, texts = [], []
    for number in range(-(-count // BATCH)):
        lines = [_line(vocabulary, WIDTHS[number % len(WIDTHS)], rng) for _ in range(BATCH)]
        images.append(np.stack([image for image, _ in lines]))
        texts += [text for _, text in lines]
    return images, texts


def _line(vocabulary: Sequence[str], width: int, rng: np.random.Generator) -> tuple[Array, str]:
    """As many words as fit, in some size and contrast, with a little noise."""
    while True:
        font = ImageFont.load_default(int(rng.integers(24, 32)))
        text = longer = str(rng.choice(vocabulary))
        while font.getlength(longer) < width - EDGE:
            text, longer = longer, f"{longer} {rng.choice(vocabulary)}"
        if font.getlength(text) < width - EDGE:
            break
    paper, ink = int(rng.integers(190, 256)), int(rng.integers(0, 90))
    image = Image.new("L", (width, HEIGHT), paper)
    ImageDraw.Draw(image).text((EDGE // 2, HEIGHT // 2), text, fill=ink, font=font, anchor="lm")
    pixels = np.asarray(image, np.float32) + rng.normal(0, 4, (HEIGHT, width))
    scaled = (np.clip(pixels, 0, 255) / 127.5 - 1).astype(np.float32)
    return np.repeat(scaled[None], 3, axis=0), text


def read(classes: Array, alphabet: Sequence[str]) -> list[str]:
    """The texts of `classes` [lines, steps, characters]: class 0 is the blank, neighbours that are equal are one."""
    lines = []
    for row in classes.argmax(-1):
        firsts = row[np.diff(row, prepend=0) != 0]
        lines.append("".join(alphabet[c] for c in firsts if c).strip())
    return lines


def right(found: str, wanted: str) -> int:
    """How many characters of `wanted` are found, in order; spaces do not count."""
    found, wanted = found.replace(" ", ""), wanted.replace(" ", "")
    return sum(
        each.size for each in SequenceMatcher(None, found, wanted, autojunk=False).get_matching_blocks()
    )
