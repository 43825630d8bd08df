"""The shape of the code base: which part may import which, what stays unloaded, and where the links point."""

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("passes", "frontends", "backends")

# Who may not import whom. Data flows frontends -> analysis -> passes -> backends; analysis and passes see a
# runtime only through a protocol. What is not named here (the command line, the public API) sits on top.
FORBIDDEN = {
    "pruneopt.errors": ("pruneopt",),
    "pruneopt.model": ("pruneopt.analysis", "pruneopt.passes", "pruneopt.backends", "pruneopt.cli"),
    "pruneopt.report": ("pruneopt.passes", "pruneopt.backends", "pruneopt.cli"),
    "pruneopt.frontends": ("pruneopt.analysis", "pruneopt.passes", "pruneopt.backends", "pruneopt.cli"),
    "pruneopt.analysis": ("pruneopt.frontends", "pruneopt.passes", "pruneopt.backends", "pruneopt.cli"),
    "pruneopt.passes": ("pruneopt.backends", "pruneopt.cli"),
    "pruneopt.backends": ("pruneopt.passes", "pruneopt.cli"),
}

# Imported where they are used, never at start-up.
HEAVY = {"torch", "tvm", "ray", "matplotlib", "jinja2", "pandas", "scipy", "sympy"}

# The public names of `pruneopt`. Changing this list is a decision: it belongs into CHANGELOG.md.
PUBLIC = {
    "Model",
    "PruneoptError",
    "Result",
    "UsageError",
    "compare",
    "from_torch",
    "inspect",
    "load",
    "prune",
}


def sources(folder: Path) -> Iterator[Path]:
    for here, _, names in os.walk(folder, followlinks=True):
        yield from (Path(here, name) for name in sorted(names) if name.endswith(".py"))


def modules() -> dict[str, Path]:
    """Every module of the package, by its import name."""
    found = {}
    for path in sources(ROOT / "pruneopt"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(text: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a module imports, inside functions too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def violations(name: str, text: str) -> Iterator[str]:
    """Each import of module `name` that goes against the arrow, as one line to read."""
    banned = [other for layer, others in FORBIDDEN.items() if within(name, layer) for other in others]
    for line, target in imports(text):
        if target.startswith("."):
            yield f"{name}, line {line}: {target} is a relative import"
        elif target.split(".")[0] in LINKED:
            yield f"{name}, line {line}: {target} lacks its pruneopt."
        elif any(within(target, other) for other in banned):
            yield f"{name}, line {line}: {target}"


def test_imports_follow_the_data() -> None:
    found = [each for name, path in modules().items() for each in violations(name, path.read_text("utf-8"))]
    assert not found, "against frontends -> analysis -> passes -> backends:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pruneopt.passes.width", "import pruneopt.backends.ort"),
        ("pruneopt.passes.width", "from pruneopt import backends"),
        ("pruneopt.passes.width", "from passes.base import Pass"),
        ("pruneopt.passes.width", "from .base import Pass"),
        ("pruneopt.analysis.infer", "def f():\n    from pruneopt.passes.base import Pass"),
        ("pruneopt.frontends.onnx", "from pruneopt.analysis import axes"),
        ("pruneopt.errors", "from pruneopt.model import Model"),
    ],
)
def test_an_import_against_the_arrow_is_seen(name: str, text: str) -> None:
    assert len(list(violations(name, text))) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pruneopt.passes.width", "from pruneopt.analysis.groups import Group"),
        ("pruneopt.backends.ort", "from pruneopt.model import Model"),
        ("pruneopt.analysis.infer", "from pruneopt.model import Model"),
        ("pruneopt.cli", "from pruneopt.passes.width import Width"),
    ],
)
def test_an_import_along_the_arrow_is_free(name: str, text: str) -> None:
    assert not list(violations(name, text))


@pytest.mark.parametrize("folder", LINKED)
def test_links_are_relative_and_resolve(folder: str) -> None:
    link = ROOT / "pruneopt" / folder
    assert os.readlink(link) == f"../{folder}"
    assert link.resolve() == ROOT / folder
    assert (link / "__init__.py").is_file()


def test_a_module_has_one_name() -> None:
    from pruneopt import passes

    assert passes.__name__ == "pruneopt.passes"
    assert not set(LINKED) & set(sys.modules)


def missing(module: str) -> bool:
    return importlib.util.find_spec(module) is None


def loaded(code: str) -> set[str]:
    """Top-level modules that are loaded after `code` has run in a fresh interpreter."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


@pytest.mark.skipif(not (ROOT / "pruneopt" / "__init__.py").exists(), reason="no public API yet")
def test_importing_loads_nothing_heavy() -> None:
    assert not loaded("import pruneopt") & HEAVY


@pytest.mark.skipif(missing("pruneopt.cli"), reason="no command line yet")
def test_help_loads_nothing_heavy() -> None:
    code = "from pruneopt.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not loaded(code) & (HEAVY | {"onnxruntime"})


@pytest.mark.skipif(not (ROOT / "pruneopt" / "__init__.py").exists(), reason="no public API yet")
def test_public_names() -> None:
    import pruneopt

    assert set(pruneopt.__all__) == PUBLIC
    assert all(hasattr(pruneopt, name) for name in PUBLIC)
