"""What kernels are compiled for: a processor, its vectors, and what a machine must have to run them."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pruneopt.errors import PruneoptError, UsageError

# x86 features that compiled code may use -> (leaf, sub-leaf, register, bit) of CPUID that says they are there.
CPUID = {
    "ssse3": (1, 0, "c", 9),
    "sse4.1": (1, 0, "c", 19),
    "sse4.2": (1, 0, "c", 20),
    "popcnt": (1, 0, "c", 23),
    "fma": (1, 0, "c", 12),
    "f16c": (1, 0, "c", 29),
    "avx": (1, 0, "c", 28),
    "bmi": (7, 0, "b", 3),
    "avx2": (7, 0, "b", 5),
    "bmi2": (7, 0, "b", 8),
    "avx512f": (7, 0, "b", 16),
    "avx512dq": (7, 0, "b", 17),
    "avx512cd": (7, 0, "b", 28),
    "avx512bw": (7, 0, "b", 30),
    "avx512vl": (7, 0, "b", 31),
    "avx512vbmi": (7, 0, "c", 1),
    "avx512vbmi2": (7, 0, "c", 6),
}

# The processors for which the LLVM that comes with TVM makes code, as triples begin.
ARCHITECTURES = (
    "x86_64",
    "i686",
    "aarch64",
    "arm",
    "thumb",
    "riscv32",
    "riscv64",
    "wasm32",
    "wasm64",
    "hexagon",
)


@dataclass(frozen=True)
class Target:
    """A processor.

    Attributes:
        kind: TVM's name of the code generator.
        options: its other options, as TVM takes them, in a fixed order.
        features: what LLVM may use of the processor.
        lanes: float32 numbers in a vector.
        host: whether it is the machine that this runs on.
    """

    kind: str
    options: tuple[tuple[str, Any], ...]
    features: frozenset[str]
    lanes: int
    host: bool

    @property
    def triple(self) -> str:
        """Architecture, system and interface, as compilers name them; empty for the host."""
        return str(dict(self.options).get("mtriple", ""))

    @property
    def key(self) -> str:
        """What records are kept under."""
        return " ".join([self.kind, *(f"-{name}={value}" for name, value in self.options)])

    def tvm(self) -> Any:
        """TVM's own object."""
        import tvm

        return tvm.target.Target({"kind": self.kind, **{k: _listed(v) for k, v in self.options}})

    def cpuid(self) -> list[tuple[str, tuple[int, int, str, int]]]:
        """The x86 features that a machine must have."""
        return [(name, where) for name, where in CPUID.items() if name in self.features]


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def require_tvm() -> None:
    """Raises PruneoptError where TVM is not installed."""
    if importlib.util.find_spec("tvm") is None:
        raise PruneoptError(
            "sparse kernels are compiled by TVM, which is not installed: pip install 'pruneopt[tvm]'"
        )


def parse(text: str) -> Target:
    """`host`, or a target as TVM's users write it: `llvm -mcpu=znver3`, `llvm -mtriple=aarch64-linux-gnu -mattr=+neon`.

    Raises UsageError where there is no such target.
    """
    require_tvm()
    from tvm.target import codegen

    host = text == "host"
    if host:
        kind, options = "llvm", {"mcpu": codegen.llvm_get_system_cpu()}
    else:
        kind, options = _split(text)
    if kind != "llvm":
        raise UsageError(_unsupported(kind))
    _check(text, options)
    given = tuple(sorted(options.items()))
    try:
        made = Target(kind, given, frozenset(), 4, host).tvm()
        features = frozenset(map(str, codegen.llvm_get_cpu_features(made)))
    except Exception as error:  # TVM raises its own classes for each of the ways a target can be wrong
        raise UsageError(
            f"TVM does not know the target '{text}': {' '.join(str(error).split())[:200]}"
        ) from error
    lanes = 16 if "avx512f" in features else 8 if "avx" in features else 4
    return Target(kind, given, features, lanes, host)


def _check(text: str, options: Mapping[str, Any]) -> None:
    """Raises UsageError for what LLVM would end the process for: an architecture or processor it does not have."""
    from tvm.target import codegen

    triple = options.get("mtriple", codegen.llvm_get_system_triple())
    if not triple.startswith(ARCHITECTURES):
        raise UsageError(f"TVM does not know the target '{text}': no code is made for '{triple}'")
    if "mcpu" in options and not codegen.llvm_is_valid_cpu(options["mcpu"], triple):
        raise UsageError(
            f"TVM does not know the target '{text}': {triple} has no processor '{options['mcpu']}'"
        )


def _split(text: str) -> tuple[str, dict[str, Any]]:
    words = shlex.split(text)
    if not words:
        raise UsageError("the target is empty: use 'host', or something like 'llvm -mcpu=znver3'")
    options: dict[str, Any] = {}
    for word in words[1:]:
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or not equals:
            raise UsageError(f"'{word}' in the target is not of the form -name=value")
        options[name] = tuple(value.split(",")) if name == "mattr" else value
    return words[0], options


def _unsupported(kind: str) -> str:
    import tvm

    if kind == "cuda" and tvm.get_global_func("target.build.cuda", allow_missing=True) is None:
        return "this build of TVM cannot compile for cuda: sparse kernels run on processors (llvm) only"
    return (
        f"there are no sparse kernels for '{kind}' targets: the templates are written for processors (llvm)"
    )
