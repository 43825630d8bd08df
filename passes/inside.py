"""Comparing inside: where outputs cannot show an error, what goes into them does.

An output may be constant, and a weight of zeros hides what goes into it (heads and residual branches are often
initialised so). Tensors of the same name are compared there, without the entries that the rewrite removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.model import Model, makers, values
from pruneopt.passes.distance import FLOOR, distance

if TYPE_CHECKING:
    from pruneopt.arrays import Feeds
    from pruneopt.passes.claims import Claim
    from pruneopt.passes.context import Context

TINY = 1e-3  # factors below make a branch too quiet to be heard at the outputs (a layer scale of 1e-6)
SAMPLED = 24  # products compared where the outputs are deaf
AT_ONCE = 16  # inner tensors held in memory together
MOST = 64  # inner tensors compared at all, the last ones

# Where an op multiplies: the inputs a factor of zeros at one of which hides the others.
FACTORS = {
    "BatchNormalization": (0, 1),
    "Conv": (0, 1),
    "ConvTranspose": (0, 1),
    "Gemm": (0, 1),
    "GroupNormalization": (0, 1),
    "InstanceNormalization": (0, 1),
    "LayerNormalization": (0, 1),
    "MatMul": (0, 1),
    "Mul": (0, 1),
    "RMSNormalization": (0, 1),
    "SimplifiedLayerNormalization": (0, 1),
}


def hidden(graph: gs.Graph) -> list[str]:
    """Names of the tensors that are multiplied by constants of zeros or next to it, in graph order."""
    found: dict[str, None] = {}
    for node in graph.nodes:
        factors = [node.inputs[slot] for slot in FACTORS.get(node.op, ()) if slot < len(node.inputs)]
        if any(isinstance(t, gs.Constant) and _is_tiny(t) for t in factors):
            found |= {t.name: None for t in factors if t.inputs}
    return list(found)


def _is_tiny(constant: gs.Constant) -> bool:
    array = values(constant).reshape(-1)
    if array.size < 2 or array.dtype.kind not in "fV":
        return False
    # A few entries tell almost always, and large weights take long to read.
    return all(bool(np.abs(part.astype(np.float32)).max() < TINY) for part in (array[:256], array))


def products(graph: gs.Graph) -> list[str]:
    """Outputs of at most `SAMPLED` matrix products and convolutions, spread over the graph."""
    made = [n.outputs[0].name for n in graph.nodes if n.op in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    return made[:: max(1, len(made) // SAMPLED)]


def is_silent(value: Any) -> bool:
    """Whether a floating-point array of more than one entry has one value only."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fV" or value.size < 2:
        return False
    return bool(value.min() == value.max())


class Pair:
    """The rewritten model and masked original number `number`, to be compared inside."""

    def __init__(
        self, model: Model, reference: Model, feeds: Feeds, claim: Claim, context: Context, number: int = 0
    ) -> None:
        self.models = model, reference
        self.feeds = feeds
        self.claim = claim
        self.context = context
        self.number = number
        self.producers = makers(model.graph)
        self.known = set(makers(reference.graph))

    def behind(self, silent: Sequence[str], names: Iterable[str]) -> tuple[int, float]:
        """Compare the tensors `names`, and what goes into `silent` ones, back to where something can be seen.

        Returns:
            The number of tensors compared and the largest error.
        """
        seen: set[str] = set(silent)
        queue = list(dict.fromkeys([*names, *self._sources(silent)]))[-MOST:]
        count, worst = 0, 0.0
        while queue and count < MOST:
            fresh = [name for name in queue if name not in seen]
            seen.update(fresh)
            quiet = []
            for name, error, is_quiet in self._compare(fresh):
                count, worst = count + 1, max(worst, error)
                quiet += [name] * is_quiet
            queue = self._sources(quiet)
        return count, worst

    def _sources(self, names: Iterable[str]) -> list[str]:
        """What the nodes that make these tensors read, as far as nodes made it."""
        nodes = [self.producers[name] for name in names if name in self.producers]
        return list(dict.fromkeys(t.name for node in nodes for t in node.inputs if t.name in self.producers))

    def _compare(self, names: Sequence[str]) -> Iterator[tuple[str, float, bool]]:
        """(name, error, whether it is constant) of each tensor that both models have, a few at a time."""
        both = [name for name in names if name in self.known]
        for at in range(0, len(both), AT_ONCE):
            chunk = both[at : at + AT_ONCE]
            found, expected = (self.run(which, chunk) for which in (0, 1))
            for name in chunk:
                left = self.left(name, expected.pop(name))
                if left is not None and left.dtype.kind in "fV":
                    yield name, distance(left, found.pop(name), FLOOR), is_silent(left)

    def run(self, which: int, names: Sequence[str]) -> dict[str, Any]:
        """Tensors of the rewritten model (0) or of the reference (1)."""
        session = self.context.session(self.models[which], list(dict.fromkeys(names)), optimize=False)
        return session.run(self.feeds)

    def left(self, name: str, whole: Any) -> Any:
        """The kept entries of a tensor of the reference, where these are known."""
        return self.claim.kept(name, whole, self.number) if isinstance(whole, np.ndarray) else None
