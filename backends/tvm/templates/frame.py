"""The frame that all kernels share: arguments, units of work, and vectors.

A kernel is `k(x, values, offsets, starts, bias, y, scratch, n, parts, first, last)`. Tensors are flat. It works
off the units `first <= u < last` of the `n * tiles * groups * parts` there are (`n` rows count as tiles), each
unit being one part of the outputs of one tile: calls with disjoint ranges may run at the same time, each with a
`scratch` of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

ARGUMENTS = ("x", "values", "offsets", "starts", "bias", "y", "scratch")
SIZES = {"uint8": 1, "uint16": 2, "int32": 4, "float32": 4}  # bytes
Expr = Any  # a TVM expression or a Python number


def builder() -> Any:
    """TVM's script builder, imported when it is needed."""
    from tvm.script.ir_builder import tirx

    return tirx


@dataclass(frozen=True)
class Frame:
    """The arguments of the kernel that is being built, and the vectors it works on."""

    lanes: int
    x: Any
    values: Any
    offsets: Any
    starts: Any
    bias: Any
    y: Any
    scratch: Any
    n: Expr
    parts: Expr
    first: Expr
    last: Expr

    def offset(self, entry: Expr) -> Expr:
        """Where the input of an entry is."""
        return builder().Cast("int32", self.offsets[entry])


def kernel(name: str, lanes: int, offsets: str, body: Callable[[Frame], None], tensors: bool = False) -> Any:
    """A TVM function whose body is what `body` emits; `offsets` is the type of the argument of that name.

    Its arrays are bare pointers, or `tensors` that TVM checks at each call: checks that take a second to compile,
    but the only kind that can be passed to another machine.
    """
    from tvm.script.ir_builder import IRBuilder

    T = builder()
    types = {"offsets": offsets, "starts": "int32"}
    with IRBuilder() as made, T.prim_func():
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        kinds = [types.get(each, "float32") for each in ARGUMENTS]
        handles = [
            T.arg(each, T.handle() if tensors else T.handle(kind))
            for each, kind in zip(ARGUMENTS, kinds, strict=True)
        ]
        scalars = [T.arg(each, T.int32()) for each in ("n", "parts", "first", "last")]
        made_of = _checked if tensors else _bare
        arrays = [made_of(handle, kind) for handle, kind in zip(handles, kinds, strict=True)]
        body(Frame(lanes, *arrays, *scalars))
    return made.get()


def _checked(handle: Any, kind: str) -> Any:
    """A flat tensor of any length. By default TVM assumes an alignment that users' buffers do not have."""
    T = builder()
    return T.match_buffer(handle, (T.int32(),), kind, align=SIZES[kind])


def _bare(handle: Any, kind: str) -> Any:
    """What a pointer points to."""
    return builder().decl_buffer((2**31 - 1,), kind, data=handle, align=SIZES[kind])


def load(array: Any, index: Expr, lanes: int, step: int = 1) -> Expr:
    """`lanes` entries of `array`, every `step`-th from `index` on."""
    return array[index] if lanes == 1 else array[builder().ramp(index, step, lanes)]


def load_some(array: Any, index: Expr, count: int, lanes: int) -> Expr:
    """`count` entries of `array` from `index` on in a vector of `lanes`, zeros behind them."""
    from tvm.tirx import Shuffle

    if count == lanes:
        return load(array, index, lanes)
    parts = [load(array, index + at, wide) for at, wide in widths(count, lanes)]
    zeros = spread(builder().float32(0), lanes - count)
    return Shuffle([*parts, zeros], list(range(lanes)))


def store(array: Any, index: Expr, value: Expr, lanes: int) -> None:
    T = builder()
    T.buffer_store(array, value, [index if lanes == 1 else T.ramp(index, 1, lanes)])


def spread(value: Expr, lanes: int) -> Expr:
    """`value` in every lane."""
    return value if lanes == 1 else builder().broadcast(value, lanes)


def looked_up(low: Expr, high: Expr, places: Expr) -> Expr:
    """For each lane the number at its place in two vectors of 16, the second behind the first: of AVX-512 alone."""
    intrinsic = "llvm.x86.avx512.vpermi2var.ps.512"
    return builder().call_llvm_pure_intrin("float32x16", intrinsic, low, places, high)


def vectors(count: int, lanes: int) -> list[Any]:
    """Local vectors; LLVM holds them in registers, because they are only indexed by constants."""
    T = builder()
    kept = {
        "disable_lower_builtin": True
    }  # else TVM may move them into memory that it allocates at every call
    return [T.alloc_buffer((lanes,), "float32", scope="local", annotations=kept) for _ in range(count)]


def over(a: Expr, b: Expr) -> Expr:
    """a / b, rounded down, of numbers that are not negative: TVM's own // takes long to compile for them."""
    return a // b if isinstance(a, int) and isinstance(b, int) else builder().truncdiv(a, b)


def left_over(a: Expr, b: Expr) -> Expr:
    """a modulo b, of numbers that are not negative."""
    return a % b if isinstance(a, int) and isinstance(b, int) else builder().truncmod(a, b)


def bound(value: Expr) -> Expr:
    """`value`, computed once."""
    return builder().bind(value)


@contextmanager
def when(condition: Expr) -> Iterator[None]:
    """Emit what follows only where `condition` holds."""
    T = builder()
    with T.If(condition), T.Then():
        yield


def either(condition: Expr, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
    """Emit both branches."""
    T = builder()
    with T.If(condition):
        with T.Then():
            then()
        with T.Else():
            otherwise()


def widths(count: int, lanes: int) -> Iterator[tuple[int, int]]:
    """(start, lanes) of the vectors that cover `count` entries exactly: full ones, then halves of halves."""
    start, wide = 0, lanes
    while start < count:
        while wide > count - start:
            wide //= 2
        yield start, wide
        start += wide


def transposed(read: Callable[[int, int, int], Expr], lanes: int) -> list[Expr]:
    """The columns of a square of `lanes` rows, a multiple of 4; `read` gives (row, column, count) of it from memory.

    Four rows and what lies 4, 8, ... rows below are put together as they are loaded: two rounds turn all of it.
    """
    from tvm.tirx import Shuffle

    columns: list[Expr] = []
    for column in range(0, lanes, 4):
        rows = [
            bound(Shuffle([read(row, column, 4) for row in range(first, lanes, 4)], list(range(lanes))))
            for first in range(4)
        ]
        pairs = [_woven(rows[i], rows[i + 1], order, lanes) for i in (0, 2) for order in TURNS]
        columns += [_woven(pairs[i], pairs[i + 2], order, lanes) for i in (0, 1) for order in JOINED]
    return columns


# Numbers out of fours of two vectors: one of each in turns, or two of each; of their first halves, of their second.
TURNS = ((0, 4, 1, 5), (2, 6, 3, 7))
JOINED = ((0, 1, 4, 5), (2, 3, 6, 7))


def _woven(a: Expr, b: Expr, order: tuple[int, ...], lanes: int) -> Expr:
    """`order` of all fours of two vectors."""
    from tvm.tirx import Shuffle

    numbers = [first + i % 4 + i // 4 * lanes for first in range(0, lanes, 4) for i in order]
    return bound(Shuffle([a, b], numbers))
