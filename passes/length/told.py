"""What a stage is told of its tokens: their keys, the attention that they receive, which of them are padding."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.cuts import Site
from pruneopt.analysis.tokens import Tokens, meets, same
from pruneopt.passes.length import tome, topk
from pruneopt.passes.length.counting import Counter
from pruneopt.passes.length.emit import FLOAT, Emit
from pruneopt.passes.length.scores import heads_in, heads_of
from pruneopt.passes.length.tensors import Tensors


class Told:
    """Reads the attentions in front of sites."""

    def __init__(self, emit: Emit, tokens: Tokens, tensors: Tensors) -> None:
        self.emit = emit
        self.tokens = tokens
        self.tensors = tensors

    def keys(self, site: Site, first: bool) -> gs.Tensor:
        """The mean of the keys over heads, [B, T, d]; a product with a row of ones is faster than ReduceMean.

        Args:
            site: the attention in front of it is read.
            first: no stage is in front of it, so that a fixed number of tokens still is what it was.
        """
        emit, attention = self.emit, site.attention
        key, axes = emit.wide(self.tensors.named(attention.key)), self.tokens.analysis.axes[attention.key]
        rank = len(axes)
        token = next(i for i, a in enumerate(axes) if same(a, attention.tokens))
        width = rank - 2 if token == rank - 1 else rank - 1
        size = axes[width].size[0]
        if rank == 4:
            key, heads, token = self._batch_first(key, axes, site, (token, width))
            flat = emit.op("Reshape", key, [0, 0, -1])
        else:
            lead = 3 - token - width
            batch = self.tokens.analysis.axes[site.tensor][site.dims[0]]
            heads = heads_in(axes[lead], batch, attention.key)
            if not heads:
                return emit.transpose(key, (lead, token, width))
            number = axes[token].size[0] if first and axes[token].static else emit.size(key, token)
            if lead:
                key, token = emit.transpose(key, (lead, token, width)), 1
            count = Counter(emit)
            line = count.mul(number, size)
            flat = emit.op("Reshape", key, emit.join([-1, heads], count.line(line)))
        mean = emit.op("MatMul", np.full((1, heads), 1 / heads, np.float32), flat)
        if token == rank - 1:
            return emit.op("Transpose", emit.op("Reshape", mean, [0, size, -1]), perm=[0, 2, 1])
        return emit.op("Reshape", mean, [0, -1, size])

    def _batch_first(
        self, key: gs.Tensor, axes: list[Axis], site: Site, ends: tuple[int, int]
    ) -> tuple[gs.Tensor, int, int]:
        """(keys with batch and heads in front, number of heads, dimension of tokens)."""
        batch = self.tokens.analysis.axes[site.tensor][site.dims[0]]
        lead = sorted((i for i in range(4) if i not in ends), key=lambda i: not meets(axes[i], batch))
        heads = axes[lead[1]].size[0]
        if lead == [0, 1]:
            return key, heads, ends[0]
        return self.emit.transpose(key, (*lead, *ends)), heads, 2

    def received(self, site: Site, by_first: bool) -> gs.Tensor:
        """[B, T, 1]: the attention that each token receives of the first one, or of all."""
        probabilities = self.emit.wide(self.tensors.named(site.attention.probabilities))
        heads = heads_of(self.tokens, site.attention, site)
        return topk.attention_received(self.emit, probabilities, heads, by_first)

    def real(self, site: Site) -> gs.Tensor:
        """[B, T, 1]: 1 for tokens that the first one attends to, next to nothing for padding."""
        seen = self.emit.op("Greater", self.received(site, True), np.float32(0))
        return self.emit.op("Max", self.emit.cast(seen, FLOAT), np.float32(tome.NOTHING))
