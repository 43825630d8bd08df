"""Activations that a kernel applies to its sums before it stores them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pruneopt.backends.tvm.templates.frame import Expr, bound, builder, spread

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


def _gelu(x: Expr, lanes: int, _: Parameters) -> Expr:
    return x * _constant(0.5, lanes) * (_constant(1, lanes) + _erf(x * _constant(0.5**0.5, lanes), lanes))


def _erf(x: Expr, lanes: int) -> Expr:
    """Eigen's rational approximation, right to 5e-7: x p(x^2) / q(x^2) of x between -4 and 4."""
    T = builder()
    near = bound(T.min(T.max(x, _constant(-4, lanes)), _constant(4, lanes)))
    square = bound(near * near)
    return near * _polynomial(ERF_OVER, square, lanes) / _polynomial(ERF_UNDER, square, lanes)


def _polynomial(coefficients: Sequence[float], x: Expr, lanes: int) -> Expr:
    """Horner's rule, the highest power first."""
    total = _constant(coefficients[0], lanes)
    for each in coefficients[1:]:
        total = total * x + _constant(each, lanes)
    return total


ERF_OVER = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
ERF_UNDER = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)

# Op type -> what it does to a vector, given the op's parameters.
ACTIVATIONS: dict[str, Callable[[Expr, int, Parameters], Expr]] = {
    "Relu": _relu,
    "Clip": _clip,
    "LeakyRelu": _leaky,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Gelu": _gelu,
}


def activated(x: Expr, lanes: int, act: tuple[str, Parameters]) -> Expr:
    """`act` of a vector; the vector itself where there is none."""
    name, parameters = act
    return ACTIVATIONS[name](x, lanes, parameters) if name else x


def _constant(value: float, lanes: int) -> Expr:
    return spread(builder().float32(value), lanes)
