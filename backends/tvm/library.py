"""Links kernels and the shim into the one shared library that ONNX Runtime loads."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pruneopt.backends.tvm.compiler import Plan, object_file
from pruneopt.backends.tvm.layer import VERSION
from pruneopt.backends.tvm.target import Target
from pruneopt.errors import PruneoptError

SHIM = Path(__file__).with_name("shim.c")
FLAGS = "-std=gnu11 -O2 -fPIC -shared -fvisibility=hidden -Wall -Wextra -Werror=implicit-function-declaration".split()

# Nothing else is visible: a process may have TVM itself, or other libraries of kernels, loaded beside this one.
EXPORTS = "{ global: RegisterCustomOps; pruneopt_kernels_version; local: *; };\n"


def build(
    plans: Sequence[Plan], target: Target, threads: int, path: Path, objects: Path | None = None
) -> None:
    """Writes the library of all `plans` to `path`, whole or not at all; compiled kernels are kept in `objects`.

    Raises PruneoptError where no compiler is found, or where it fails.
    """
    command = compiler(target)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        kernels = [str(object_file(plan, target, objects or here)) for plan in plans]
        (here / "kernels.h").write_text(header(plans, target, threads))
        (here / "exports").write_text(EXPORTS)
        made = here / "made.so"
        exports = f"-Wl,--version-script={here / 'exports'}"
        link(command, [str(SHIM), *kernels, "-I", folder, "-o", str(made), exports, "-lpthread"])
        partial = path.with_name(f".{path.name}.part")
        shutil.copyfile(made, partial)
        partial.replace(path)


def link(command: Sequence[str], arguments: Sequence[str]) -> None:
    """Runs the compiler. Raises PruneoptError with the first of its errors."""
    run = subprocess.run([*command, *FLAGS, *arguments], capture_output=True, text=True)
    if run.returncode:
        lines = run.stderr.splitlines()
        first = next((line for line in lines if "error" in line), lines[-1] if lines else "no message")
        raise PruneoptError(f"{command[0]} could not link the kernels: {first}")


def export(made: Any, path: Path, target: Target) -> None:
    """Writes what TVM has compiled to `path`, linked for `target`. Raises PruneoptError as `link` and `compiler` do."""
    command = compiler(target)

    def linked(output: str, objects: list[str], options: Any = None, **_: Any) -> None:
        link(command, [*objects, "-o", output])

    linked.output_format = "so"  # type: ignore[attr-defined]
    made.export_library(str(path), fcompile=linked)


def compiler(target: Target) -> list[str]:
    """The command of a C compiler for `target`: the system's for the host, else a cross compiler, else Zig's.

    Raises PruneoptError where there is none.
    """
    triple = target.triple
    names = ["cc", "gcc", "clang"] if not triple else [f"{triple}-gcc"]
    for name in names:
        if found := shutil.which(name):
            return [found]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc", *(["-target", _zig(triple)] if triple else [])]
    wanted = f"a C compiler for {triple}" if triple else "a C compiler"
    raise PruneoptError(f"linking the kernels takes {wanted}, and none was found: pip install ziglang")


def _zig(triple: str) -> str:
    """Zig leaves the vendor out: aarch64-unknown-linux-gnu -> aarch64-linux-gnu."""
    words = triple.split("-")
    return "-".join(words if len(words) < 4 else [words[0], *words[2:]])


def header(plans: Sequence[Plan], target: Target, threads: int) -> str:
    """The tables that the shim is compiled with."""
    lines = [f"int __tvm_ffi_{plan.name}(void *, const Any *, int32_t, Any *);" for plan in plans]
    lines += ["static const Entry KERNELS[] = {", *map(_entry, plans), "};"]
    lines += [
        f"enum {{ ENTRIES = {len(plans)}, THREADS = {threads} }};",
        f'#define LIBRARY_VERSION "{VERSION}"',
    ]
    features = [
        f"{{\"{name}\", {leaf}, {sub}, '{reg}', {bit}}}," for name, (leaf, sub, reg, bit) in target.cpuid()
    ]
    lines += ["#if defined(__x86_64__) || defined(__i386__)"]
    lines += [
        "static const struct { const char *name; uint32_t leaf, subleaf; char reg; int bit; } FEATURES[] = {"
    ]
    return "\n".join([*lines, *features, "{NULL, 0, 0, 0, 0}};", "#endif", ""])


def _entry(plan: Plan) -> str:
    layer, image = plan.layer, plan.layer.image
    size, out = (image.size, image.out) if image else ((0, 0), (0, 0))
    numbers = [
        0 if image else -plan.tiles,
        plan.tiles if image else 0,
        plan.spans,
        layer.channels * layer.groups,
        layer.outputs * layer.groups,
    ]
    body = ", ".join(map(str, numbers))
    pairs = f"{{{size[0]}, {size[1]}}}, {{{out[0]}, {out[1]}}}"
    bits = np.dtype(plan.offsets).itemsize * 8
    return f'{{"{plan.name}", __tvm_ffi_{plan.name}, {body}, {pairs}, {plan.scratch}, {bits}}},'
