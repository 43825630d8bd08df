"""Dependency on the outputs (Hou & Kung 2022): entries whose activations tell little about the outputs go first.

HSIC(X, Y) = tr(H Kx H Ky) / (n - 1)^2 over n samples, H = I - 1/n. Kx is the mean of Gaussian kernels of widths 1, 2,
4, 8 and 16, Ky the linear kernel of the outputs after their softmax (Gretton et al. 2005). One batch, no gradients.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pruneopt.analysis.groups import Group
from pruneopt.arrays import Array
from pruneopt.passes.criteria.magnitude import magnitude_l2
from pruneopt.passes.learning.outputs import Meaning, meanings
from pruneopt.passes.statistics.consumers import Consumer, consumers_of
from pruneopt.passes.statistics.evidence import Evidence

WIDTHS = (1.0, 2.0, 4.0, 8.0, 16.0)
REDUNDANCY = 0.1  # weight of what an entry of several features shares with the others
SHARE = 0.1  # of the dependency beside the activations' size, for entries of one feature


def hsic(group: Group, evidence: Evidence) -> npt.NDArray[np.float64]:
    """Summed over the consumers; of entries of one feature shares of the sum, the paper's neuron score. Shape [size].

    Entries of several features (heads) score HSIC with the outputs less a tenth of their mean HSIC with each other.
    """
    tensors = evidence.sampled()
    answers = _answers(tensors, evidence)
    total, seen = np.zeros(group.size), False
    for consumer in consumers_of(group.atom, evidence.consumers):
        found = _entries(consumer, group, tensors[consumer.data]) if consumer.data in tensors else None
        if found is None or found.shape[1] != len(answers):
            continue
        kernels = np.stack([_centred(_gaussian(each)) for each in found]).reshape(group.size, -1)
        scale = (len(answers) - 1) ** 2 or 1
        tells = kernels @ answers.reshape(-1) / scale
        if group.granule == 1:
            total += SHARE * _shares(tells) + (1 - SHARE) * _shares(np.abs(found).sum((1, 2)))
        else:
            total += tells - REDUNDANCY * (kernels @ kernels.T / scale).mean(1)
        seen = True
    return total if seen else magnitude_l2(group)


def _entries(consumer: Consumer, group: Group, data: Array) -> Array | None:
    """Mean activation of each entry at each place, [entries, samples, places]; None where features are not one axis."""
    features = consumer.entries(group.atom)
    if features is None or consumer.groups > 1:
        return None
    features = features[:: consumer.window]
    dim = 1 if consumer.node.op == "Conv" else data.ndim - 1
    if dim < 1 or data.shape[dim] != len(features):
        return None
    rows = np.moveaxis(data, dim, 0).reshape(len(features), data.shape[0], -1).astype(np.float64)
    found = np.zeros((group.size, *rows.shape[1:]))
    counts = np.bincount(features[features >= 0], minlength=group.size)
    np.add.at(found, features[features >= 0], rows[features >= 0])
    return found / np.maximum(counts, 1)[:, None, None]


def _answers(tensors: dict[str, Array], evidence: Evidence) -> Array:
    """The centred linear kernel of all outputs, [samples, samples]."""
    kinds = meanings(evidence.analysis.model)
    rows = [_probabilities(tensors[name], kind) for name, kind in kinds.items()]
    flat = np.concatenate([r.reshape(len(r), -1) for r in rows], axis=1)
    return _centred(flat @ flat.T)


def _probabilities(data: Array, kind: Meaning) -> Array:
    data = data.astype(np.float64)
    if kind in (Meaning.LOGITS, Meaning.LOG_PROBABILITIES):
        data = np.exp(data - data.max(-1, keepdims=True))
        data /= data.sum(-1, keepdims=True)
    return data


def _gaussian(rows: Array) -> Array:
    """Mean over the widths of exp(-d^2 / 2 s^2) for rows [samples, places]; [samples, samples]."""
    square = np.square(rows).sum(1)
    distance = np.maximum(square[:, None] + square - 2 * rows @ rows.T, 0)
    return np.asarray(np.mean([np.exp(-distance / (2 * s * s)) for s in WIDTHS], axis=0))


def _centred(kernel: Array) -> Array:
    """H K H."""
    return np.asarray(kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean())


def _shares(scores: Array) -> Array:
    return np.asarray(scores / (scores.sum() or 1.0))
