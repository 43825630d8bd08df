"""`torch.export` archives (.pt2) to `Model`, without ever unpickling: a pickle runs code when it is read."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from pruneopt.errors import PruneoptError
from pruneopt.frontends.fx import first_line, from_module, quiet, require_exporter
from pruneopt.model import Model

ARCHIVE = ".pt2"
PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl"}
UNSAFE = (
    "custom_obj_",
    "opaque_obj_",
    "aotinductor",
)  # parts of an archive that are pickled or compiled objects
FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # PyTorch's own switch against pickles


def load_archive(path: str | Path) -> Model:
    """The model in a `torch.export` archive (.pt2). Raises PruneoptError where it is none, or cannot be exported."""
    path = Path(path)
    torch = require_exporter()
    if not path.is_file():
        raise PruneoptError(f"{path} does not exist: check the path")
    _check_archive(path)
    with quiet(), _without_pickle():
        try:
            program = torch.export.load(str(path))
        except Exception as error:  # whatever the format's reader raises
            raise PruneoptError(
                f"{path} cannot be read as a torch.export archive: {first_line(error)}"
            ) from None
    model = from_module(program)
    model.path = path
    return model


def _check_archive(path: Path) -> None:
    """Refuse what PyTorch would unpickle or run while it reads an archive: pickled objects, compiled libraries."""
    if not zipfile.is_zipfile(path):
        raise PruneoptError(f"{path} is not a torch.export archive: write one with torch.export.save")
    with zipfile.ZipFile(path) as archive:
        parts = {part for name in archive.namelist() for part in name.split("/")}
    unsafe = next((part for part in sorted(parts) if part.startswith(UNSAFE)), None)
    if unsafe is not None:
        raise PruneoptError(
            f"{path} holds '{unsafe}', which runs code when it is read: export the module again, with tensors only"
        )


@contextlib.contextmanager
def _without_pickle() -> Iterator[None]:
    """PyTorch reads tensors alone, wherever its own reader would fall back to unpickling anything."""
    old = os.environ.get(FORCE)
    os.environ[FORCE] = "1"
    try:
        yield
    finally:
        if old is None:
            del os.environ[FORCE]
        else:
            os.environ[FORCE] = old


def refuse_pickle(path: str | Path) -> None:
    """Raises PruneoptError for files that only unpickling could read: that runs any code that is in them."""
    if Path(path).suffix in PICKLES:
        raise PruneoptError(
            f"{path} may hold a pickle, which runs code when it is read: export the module with "
            "torch.export.save(torch.export.export(module, inputs), 'model.pt2') or to ONNX, and give that"
        )
