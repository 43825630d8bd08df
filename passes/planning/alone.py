"""Single kernels cut out of a model, to be timed by themselves where a busy machine disturbs the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.arrays import Feeds
from pruneopt.model import Model
from pruneopt.passes.runtime import Backend

MOST = 1 << 29  # bytes of tensors that are held for it


@dataclass(frozen=True)
class Cut:
    """Nodes of a model as a model of its own, and the tensors that go in."""

    model: Model
    feeds: Feeds


def cut_out(
    model: Model, parts: Sequence[Sequence[gs.Node]], feeds: Feeds, backend: Backend
) -> list[Cut | None]:
    """Each part, sets of nodes of the main graph, as a model of its own; None where that is not possible."""
    wanted = [[t for t in _inputs(part) if isinstance(t, gs.Variable)] for part in parts]
    ends = {t.name for t in model.graph.inputs}
    names = list(dict.fromkeys(t.name for part in wanted for t in part if t.name not in ends))
    values = dict(feeds) | backend.session(model, names, optimize=False).run(feeds)
    known = {n: v for n, v in values.items() if isinstance(v, np.ndarray)}
    if sum(v.nbytes for v in known.values()) > MOST:
        return [None] * len(parts)
    return [
        _cut(model, part, {t.name: known[t.name] for t in ins}) if all(t.name in known for t in ins) else None
        for part, ins in zip(parts, wanted, strict=True)
    ]


def _inputs(part: Sequence[gs.Node]) -> list[gs.Tensor]:
    made = {t.name for node in part for t in node.outputs}
    read = (t for node in part for t in node.inputs if t.name and t.name not in made)
    return list({t.name: t for t in read}.values())


def _cut(model: Model, part: Sequence[gs.Node], feeds: Feeds) -> Cut:
    tensors: dict[str, gs.Tensor] = {n: gs.Variable(n, v.dtype, v.shape) for n, v in feeds.items()}
    for node in part:
        tensors |= {t.name: gs.Variable(t.name) for t in node.outputs if t.name}
    nodes = [
        gs.Node(
            node.op,
            node.name,
            dict(node.attrs),
            [tensors.get(t.name, t) if t.name else gs.Variable("") for t in node.inputs],
            [tensors[t.name] if t.name else gs.Variable("") for t in node.outputs],
            node.domain,
        )
        for node in part
    ]
    inside = {t.name for node in part for t in node.inputs}
    outputs = [tensors[t.name] for node in part for t in node.outputs if t.name and t.name not in inside]
    graph = gs.Graph(
        nodes,
        [tensors[n] for n in feeds],
        outputs,
        opset=model.graph.opset,
        import_domains=model.graph.import_domains,
    )
    return Cut(Model(graph, model.header), feeds)
