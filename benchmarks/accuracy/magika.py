"""magika: the type of a file from its bytes, on files of this machine; score is agreement with the extension."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.task import Feeds, Task

Array = npt.NDArray[Any]
SEED = 6
PLACES = (Path(sys.prefix), Path("/usr/share"), Path("/usr/lib"), Path("/usr/include"), Path("/etc"))
EACH = 24  # files of one type at most
BYTES, BLOCK, NOTHING = 1024, 4096, 256  # of the head and of the tail; what is read for each; padding
BATCH = 32


def task(cache: Path) -> Task:
    """Half of the files to calibrate on, 512 at most, and the other half to judge by."""
    folder = package() / "models" / "standard_v3_3"
    types = json.loads((folder / "config.min.json").read_text())["target_labels_space"]
    files = _files(_types_of_extensions(types))
    order = np.random.default_rng(SEED).permutation(len(files))
    pick = [files[i] for i in order]
    half = len(pick) // 2
    held, labels = _batches([f for f, _ in pick[half:]]), np.array([types.index(t) for _, t in pick[half:]])
    return Task(
        "magika",
        folder / "model.onnx",
        _batches([f for f, _ in pick[: min(half, 512)]]),
        {"files": held},
        lambda run: {"top1": float((np.concatenate([run(b).argmax(-1) for b in held]) == labels).mean())},
        "kl",
    )


def package() -> Path:
    """Folder of the package `magika`."""
    spec = find_spec("magika")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install --no-deps magika==1.0.3")
    return Path(spec.submodule_search_locations[0])


def _types_of_extensions(types: list[str]) -> dict[str, str]:
    """Type by extension, of the extensions that one type alone has."""
    known = json.loads((package() / "config" / "content_types_kb.min.json").read_text())
    found: dict[str, list[str]] = {}
    for name, entry in known.items():
        for extension in entry["extensions"]:
            found.setdefault(extension, []).append(name)
    return {e: names[0] for e, names in found.items() if len(names) == 1 and names[0] in types}


def _files(types: dict[str, str]) -> list[tuple[Path, str]]:
    """Files and their types, in order of their paths."""
    found: dict[str, list[Path]] = {}
    for path in _walk():
        name = types.get(path.suffix[1:].lower())
        if name is not None and len(found.setdefault(name, [])) < EACH and path.stat().st_size >= 64:
            found[name].append(path)
    return [(path, name) for name, paths in sorted(found.items()) for path in paths]


def _walk() -> Iterator[Path]:
    seen = set()
    for place in PLACES:
        for path in sorted(place.rglob("*.*")):
            if path.is_file() and not path.is_symlink() and path not in seen:
                seen.add(path)
                yield path


def features(path: Path) -> Array:
    """The first and the last bytes of a file but for white space around it, int32, shape [2048]."""
    with path.open("rb") as file:
        size = path.stat().st_size
        head = file.read(BLOCK)
        file.seek(max(0, size - BLOCK))
        tail = file.read(BLOCK).rstrip()
    if size <= BLOCK:
        head, tail = head.strip(), tail.strip()
    row = np.full(2 * BYTES, NOTHING, np.int32)
    first, last = head.lstrip()[:BYTES], tail[-BYTES:]
    row[: len(first)] = list(first)
    row[2 * BYTES - len(last) :] = list(last)
    return row


def _batches(files: list[Path]) -> list[Feeds]:
    rows = [features(f) for f in files]
    return [{"bytes": np.stack(rows[i : i + BATCH])} for i in range(0, len(rows), BATCH)]
