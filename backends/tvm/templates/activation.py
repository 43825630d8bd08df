"""Activations that a kernel applies to its sums before it stores them."""

from __future__ import annotations

from collections.abc import Callable

from pruneopt.backends.tvm.templates.frame import Expr, builder, spread

Parameters = tuple[float, ...]


def _relu(x: Expr, lanes: int, _: Parameters) -> Expr:
    return builder().max(x, _constant(0, lanes))


def _clip(x: Expr, lanes: int, limits: Parameters) -> Expr:
    T = builder()
    return T.min(T.max(x, _constant(limits[0], lanes)), _constant(limits[1], lanes))


def _leaky(x: Expr, lanes: int, slope: Parameters) -> Expr:
    T = builder()
    zero = _constant(0, lanes)
    return T.max(x, zero) + T.min(x, zero) * _constant(slope[0], lanes)


def _hard_sigmoid(x: Expr, lanes: int, line: Parameters) -> Expr:
    return _clip(x * _constant(line[0], lanes) + _constant(line[1], lanes), lanes, (0, 1))


def _hard_swish(x: Expr, lanes: int, _: Parameters) -> Expr:
    return x * _hard_sigmoid(x, lanes, (1 / 6, 0.5))


# Op type -> what it does to a vector, given the op's parameters.
ACTIVATIONS: dict[str, Callable[[Expr, int, Parameters], Expr]] = {
    "Relu": _relu,
    "Clip": _clip,
    "LeakyRelu": _leaky,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
}


def activated(x: Expr, lanes: int, act: tuple[str, Parameters]) -> Expr:
    """`act` of a vector; the vector itself where there is none."""
    name, parameters = act
    return ACTIVATIONS[name](x, lanes, parameters) if name else x


def _constant(value: float, lanes: int) -> Expr:
    return spread(builder().float32(value), lanes)
