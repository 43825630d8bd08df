"""Activations, and Dropout: elementwise functions with settings of their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pruneopt.backends.torch.table import op
from pruneopt.backends.torch.values import Setting, number, together


@op("SwiGLU")
def swiglu(gate: Tensor, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """The swish of the gate, times x."""
    return swish(gate, alpha=alpha) * x


@op("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """alpha (exp x - 1) below zero."""
    return F.elu(x, alpha)


@op("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """alpha (exp(x / alpha) - 1) below zero."""
    return F.celu(x, alpha)


@op("Selu")
def selu(x: Tensor, *, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805) -> Tensor:
    """gamma alpha (exp x - 1) below zero, gamma x above."""
    return gamma * F.elu(x, alpha)


@op("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """alpha x below zero."""
    return F.leaky_relu(x, alpha)


@op("PRelu")
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """slope x below zero, the slope broadcast to x."""
    x, slope = together(x, slope)
    return torch.where(x < 0, x * slope, x)


@op("ThresholdedRelu")
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x above alpha, else zero."""
    return F.threshold(x, alpha, 0.0)


@op("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """alpha x + beta within 0 and 1."""
    return torch.clamp(alpha * x + beta, 0, 1)


@op("HardSwish")
def hard_swish(x: Tensor) -> Tensor:
    """x times its hard sigmoid of slope 1/6."""
    return F.hardswish(x)


@op("Gelu")
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """x times the normal distribution function of x, or its tanh approximation."""
    return F.gelu(x, approximate=approximate)


@op("Mish")
def mish(x: Tensor) -> Tensor:
    """x tanh(softplus x)."""
    return F.mish(x)


@op("Swish")
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x sigmoid(alpha x)."""
    return x * torch.sigmoid(alpha * x)


@op("Softplus")
def softplus(x: Tensor) -> Tensor:
    """log(1 + exp x)."""
    return F.softplus(x)


@op("Softsign")
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return F.softsign(x)


@op("Shrink")
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """x moved towards zero by the bias, and zero within lambd of it."""
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))


@op("Dropout", settings=(1, 2), several=True)
def dropout(
    x: Tensor,
    ratio: Setting = 0.5,
    training_mode: Setting = False,
    *,
    seed: int = 0,
    training: bool = False,
) -> tuple[Tensor, Tensor]:
    """x, or where the module trains x with a share of its entries zero; and which entries are kept."""
    share = 0.5 if ratio is None else float(number(ratio))
    drops = training or bool(training_mode is not None and number(training_mode))
    if not drops or share == 0:
        return x, torch.ones_like(x, dtype=torch.bool)
    keep = torch.rand_like(x) >= share
    return x * keep / (1 - share), keep
