"""Ops that treat every element alike, operands broadcast against each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pruneopt.backends.torch.table import op, ops
from pruneopt.backends.torch.values import Setting, dtype_of, number, together

ops(
    {
        "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh,
        "Atan": torch.atan, "Atanh": torch.atanh, "BitwiseNot": torch.bitwise_not, "Ceil": torch.ceil,
        "Cos": torch.cos, "Cosh": torch.cosh, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor,
        "IsNaN": torch.isnan, "Log": torch.log, "Neg": torch.neg, "Not": torch.logical_not,
        "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round, "Sigmoid": torch.sigmoid,
        "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh, "Sqrt": torch.sqrt, "Tan": torch.tan,
        "Tanh": torch.tanh,
    }
)  # fmt: skip


@op("Identity")
def identity(x: Any) -> Any:
    """The value itself."""
    return x


@op("Add")
def add(a: Tensor, b: Tensor) -> Tensor:
    """a + b."""
    a, b = together(a, b)
    return a + b


@op("Sub")
def sub(a: Tensor, b: Tensor) -> Tensor:
    """a - b."""
    a, b = together(a, b)
    return a - b


@op("Mul")
def mul(a: Tensor, b: Tensor) -> Tensor:
    """a * b."""
    a, b = together(a, b)
    return a * b


@op("Div")
def div(a: Tensor, b: Tensor) -> Tensor:
    """a / b; integers are divided towards zero."""
    a, b = together(a, b)
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@op("Mod")
def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """The remainder: with the sign of b, or of a where `fmod`."""
    a, b = together(a, b)
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@op("Pow")
def power(a: Tensor, b: Tensor) -> Tensor:
    """a to the power of b, in the type of a."""
    a, b = together(a, b)
    return torch.pow(a, b).to(a.dtype)


@op("And")
def logical_and(a: Tensor, b: Tensor) -> Tensor:
    """Both."""
    return torch.logical_and(*together(a, b))


@op("Or")
def logical_or(a: Tensor, b: Tensor) -> Tensor:
    """At least one."""
    return torch.logical_or(*together(a, b))


@op("Xor")
def logical_xor(a: Tensor, b: Tensor) -> Tensor:
    """Exactly one."""
    return torch.logical_xor(*together(a, b))


@op("Equal")
def equal(a: Tensor, b: Tensor) -> Tensor:
    """a == b."""
    return torch.eq(*together(a, b))


@op("Greater")
def greater(a: Tensor, b: Tensor) -> Tensor:
    """a > b."""
    return torch.gt(*together(a, b))


@op("GreaterOrEqual")
def greater_or_equal(a: Tensor, b: Tensor) -> Tensor:
    """a >= b."""
    return torch.ge(*together(a, b))


@op("Less")
def less(a: Tensor, b: Tensor) -> Tensor:
    """a < b."""
    return torch.lt(*together(a, b))


@op("LessOrEqual")
def less_or_equal(a: Tensor, b: Tensor) -> Tensor:
    """a <= b."""
    return torch.le(*together(a, b))


@op("Where")
def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where the condition holds, else b."""
    result: Tensor = torch.where(*together(condition, a, b))
    return result


@op("Max")
def maximum(first: Tensor, *others: Tensor) -> Tensor:
    """The largest of all operands."""
    first, *rest = together(first, *others)
    for each in rest:
        first = torch.maximum(first, each)
    return first


@op("Min")
def minimum(first: Tensor, *others: Tensor) -> Tensor:
    """The smallest of all operands."""
    first, *rest = together(first, *others)
    for each in rest:
        first = torch.minimum(first, each)
    return first


@op("Sum")
def total(first: Tensor, *others: Tensor) -> Tensor:
    """The sum of all operands."""
    first, *rest = together(first, *others)
    for each in rest:
        first = first + each
    return first


@op("Mean")
def mean(*terms: Tensor) -> Tensor:
    """The mean of all operands."""
    return total(*terms) / len(terms)


@op("BitShift")
def bit_shift(a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    """a shifted by b bits."""
    a, b = together(a, b)
    return a << b if direction == "LEFT" else a >> b


@op("BitwiseAnd")
def bitwise_and(a: Tensor, b: Tensor) -> Tensor:
    """Bits in both."""
    return torch.bitwise_and(*together(a, b))


@op("BitwiseOr")
def bitwise_or(a: Tensor, b: Tensor) -> Tensor:
    """Bits in one of both."""
    return torch.bitwise_or(*together(a, b))


@op("BitwiseXor")
def bitwise_xor(a: Tensor, b: Tensor) -> Tensor:
    """Bits in exactly one."""
    return torch.bitwise_xor(*together(a, b))


@op("Cast")
def cast(x: Tensor, *, to: Any, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """x in another element type; floats are cut towards zero."""
    return _converted(x, dtype_of(to), saturate)


_NARROW = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)


def _converted(x: Tensor, dtype: torch.dtype, saturate: int) -> Tensor:
    if saturate and dtype in _NARROW and x.is_floating_point():
        x = x.float().clamp(torch.finfo(dtype).min, torch.finfo(dtype).max)  # else NaN or infinity
    return x.to(dtype)


@op("CastLike")
def cast_like(x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """x in the element type of `like`."""
    return _converted(x, like.dtype, saturate)


@op("Clip", settings=(1, 2))
def clip(x: Tensor, min: Setting = None, max: Setting = None) -> Tensor:
    """x within bounds; the upper one wins."""
    low = None if min is None else number(min)
    high = None if max is None else number(max)
    return x if low is None and high is None else torch.clamp(x, low, high)


@op("IsInf")
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Where x is infinite, on the sides asked for."""
    found = torch.zeros_like(x, dtype=torch.bool)
    if detect_negative:
        found = found | torch.isneginf(x)
    return found | torch.isposinf(x) if detect_positive else found
