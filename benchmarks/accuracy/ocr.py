"""PP-OCRv4 text recognition on lines rendered in the DejaVu fonts; score is the character error rate."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.task import Feeds, Run, Task

Array = npt.NDArray[Any]
SEED = 11
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSerif",
    "DejaVuSansMono",
    "DejaVuSansCondensed",
    "DejaVuSerif-Bold",
)
WIDTHS = (160, 240, 320, 480)  # of the rendered lines; a batch has one width


def task(cache: Path, model: Path | None = None) -> Task:
    """The recogniser that `rapidocr_onnxruntime` ships, 256 lines to calibrate on and 300 to judge by."""
    path = model or package() / "ch_PP-OCRv4_rec_infer.onnx"
    rng = np.random.default_rng(SEED)
    words = sorted(set(_words()))
    order = rng.permutation(len(words))
    calibration, _ = _lines([words[i] for i in order[: len(words) // 2]], 256, rng)
    held, texts = _lines([words[i] for i in order[len(words) // 2 :]], 300, rng)
    alphabet = _alphabet(path)
    return Task(
        "ocr",
        path,
        calibration,
        {"lines": held},
        lambda run: {"cer": _errors(run, held, texts, alphabet)},
        "kl",
    )


def package() -> Path:
    """Folder of the models inside the package `rapidocr_onnxruntime`."""
    spec = find_spec("rapidocr_onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install rapidocr-onnxruntime==1.4.4 pillow gensim==4.4.0")
    return Path(spec.submodule_search_locations[0]) / "models"


def _words() -> list[str]:
    from gensim.test.utils import datapath

    return Path(datapath("lee_background.cor")).read_text("latin-1").split()


def _lines(words: list[str], count: int, rng: np.random.Generator) -> tuple[list[Feeds], list[list[str]]]:
    """Batches of 8 rendered lines, and what they say."""
    batches, texts = [], []
    for i in range(-(-count // 8)):
        size = min(8, count - 8 * i)
        drawn = [_draw(words, WIDTHS[i % len(WIDTHS)], rng) for _ in range(size)]
        batches.append({"x": np.stack([image for image, _ in drawn])})
        texts.append([text for _, text in drawn])
    return batches, texts


def _draw(words: list[str], width: int, rng: np.random.Generator) -> tuple[Array, str]:
    """One line that fills about `width` pixels: an image [3, 48, width] in [-1, 1], and its text."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(f"{FONTS[rng.integers(len(FONTS))]}.ttf", int(rng.integers(24, 34)))
    text = str(words[rng.integers(len(words))])
    while font.getlength(longer := f"{text} {words[rng.integers(len(words))]}") < width - 12:
        text = longer
    while font.getlength(text) > width - 6 and len(text) > 1:
        text = text[:-1]
    paper, ink = int(rng.integers(190, 256)), int(rng.integers(0, 90))
    image = Image.new("L", (width, 48), paper)
    ImageDraw.Draw(image).text((5, 24), text.strip(), fill=ink, font=font, anchor="lm")
    noisy = np.asarray(image, np.float32) + rng.normal(0, 4, (48, width))
    scaled = (np.clip(noisy, 0, 255) / 127.5 - 1).astype(np.float32)
    return np.repeat(scaled[None], 3, axis=0), text.strip()


def _alphabet(path: Path) -> list[str]:
    """The characters of the classes, which the model carries; class 0 is the blank."""
    import onnx

    stored = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    return ["", *stored["character"].splitlines(), " "]


def _errors(run: Run, held: list[Feeds], texts: list[list[str]], alphabet: list[str]) -> float:
    """Edit distance over length, spaces left out."""
    wrong = total = 0
    for feeds, wanted in zip(held, texts, strict=True):
        for row, text in zip(run(feeds).argmax(-1), wanted, strict=True):
            found = "".join(
                alphabet[c] for c, before in zip(row, [0, *row[:-1]], strict=True) if c and c != before
            )
            wrong += _edits(found.replace(" ", ""), text.replace(" ", ""))
            total += len(text.replace(" ", ""))
    return wrong / total


def _edits(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]
