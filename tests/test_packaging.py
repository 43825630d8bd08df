"""What users install: a wheel and a source archive with every module in them, as plain files."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.test_layout import ROOT, modules

SKIPPED = shutil.ignore_patterns(".*", "build", "dist", "demo", "*.egg-info", "__pycache__")
BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]  # setuptools changes sys.argv
build_meta.build_wheel(folder)
build_meta.build_sdist(folder)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a wheel and a source archive, built from a copy so that the tree stays clean."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("packaging")
    shutil.copytree(ROOT, folder / "tree", symlinks=True, ignore=SKIPPED)
    command = [sys.executable, "-c", BUILD, str(folder)]
    subprocess.run(command, cwd=folder / "tree", check=True, capture_output=True)
    return folder


def expected() -> set[str]:
    recipes = {f"pruneopt/passes/recipes/{path.name}" for path in (ROOT / "passes/recipes").glob("*.yaml")}
    return (
        {path.relative_to(ROOT).as_posix() for path in modules().values()}
        | recipes
        | {
            "pruneopt/py.typed",
            "pruneopt/page.html",
        }
    )


@pytest.mark.slow
def test_wheel_holds_every_module_once(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert expected() <= names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"pruneopt"}


@pytest.mark.slow
def test_source_archive_holds_every_module(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
    assert expected() | {"LICENSE", "README.md", "pyproject.toml"} <= set(members)
    assert not any(member.issym() for member in members.values())
