"""What a pruned model learns from: the original's outputs and hidden states on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_graphsurgeon as gs

from pruneopt.arrays import Feeds
from pruneopt.model import Model
from pruneopt.passes.learning.net import Net, Tensors
from pruneopt.passes.learning.outputs import Meaning, distance, meanings, relative

MOST = 1 << 30  # bytes of the original's tensors that are kept; beyond, it runs again in every epoch
FAR = 0.9  # relative squared distance from which a hidden state is taken for another one of the same name


@dataclass
class Teacher:
    """The original, and what it made of each batch.

    Attributes:
        net: the original.
        known: number of the batch -> its tensors.
    """

    net: Net
    known: dict[int, Tensors] = field(default_factory=dict)
    _bytes: int = 0

    def of(self, number: int, feeds: Feeds) -> Tensors:
        """The original's tensors for batch `number`."""
        import torch

        if number in self.known:
            return self.known[number]
        with torch.no_grad():
            found = self.net.run(feeds)
        size = sum(t.numel() * t.element_size() for t in found.values())
        if self._bytes + size <= MOST:
            self.known[number] = found
            self._bytes += size
        return found


@dataclass(frozen=True)
class Lesson:
    """The distance to learn away.

    Attributes:
        kinds: output -> what it means.
        hidden: names of the hidden states that are matched.
        weight: of their mean relative squared distance beside the outputs'.
    """

    kinds: Mapping[str, Meaning]
    hidden: Sequence[str]
    weight: float

    def loss(self, found: Tensors, dense: Tensors) -> Any:
        """A scalar tensor."""
        total = distance(found, dense, self.kinds)
        if self.hidden:
            total = total + self.weight * sum(relative(found[n], dense[n]) for n in self.hidden) / len(
                self.hidden
            )
        return total


def residual_states(model: Model) -> list[str]:
    """Names of the sums of two variables in the main graph: where residual streams are."""
    outputs = {t.name for t in model.outputs}
    return [
        node.outputs[0].name
        for node in model.graph.nodes
        if node.op == "Add"
        and all(isinstance(t, gs.Variable) for t in node.inputs)
        and node.outputs[0].name not in outputs
    ]


def lesson(
    original: Model, model: Model, feeds: Feeds, hidden: float, device: str
) -> tuple[Lesson, Net, Net]:
    """What `model` is to learn, and both models as modules that return it: (lesson, original, model).

    Hidden states are those whose name, shape and, roughly, values are in both: a stream that was narrowed or turned
    into another basis is none. `feeds` is a batch to see that on; `hidden` is their weight, zero for none.
    """
    import torch

    outputs = [t.name for t in model.outputs]
    names = [n for n in residual_states(original) if n in set(residual_states(model))] if hidden > 0 else []
    both = [Net(each, [*outputs, *names], device) for each in (original, model)]
    if names:
        with torch.no_grad():
            dense, found = (net.run(feeds) for net in both)
        kept = [
            n for n in names if dense[n].shape == found[n].shape and float(relative(found[n], dense[n])) < FAR
        ]
        if kept != names:
            both = [Net(each, [*outputs, *kept], device) for each in (original, model)]
            names = kept
    return Lesson(meanings(original), names, hidden), both[0], both[1]
