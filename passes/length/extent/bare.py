"""Takes away what makes inputs smaller in front of a model, and outputs larger behind it."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.errors import PruneoptError
from pruneopt.model import Model
from pruneopt.passes.context import Context
from pruneopt.passes.distance import distance
from pruneopt.passes.exact.identities import drop_dead
from pruneopt.passes.proof import TOLERANCE
from pruneopt.passes.rewriting.edits import read_instead


def bare(model: Model, context: Context) -> Model:
    """A copy whose inputs and outputs are the smaller tensors inside, under the same names.

    Raises:
        PruneoptError: a later pass has changed these tensors, or the copy does something else.
    """
    made = model.copy()
    graph = made.graph
    known = {t.name: t for node in graph.nodes for t in node.outputs}
    if missing := [name for name in context.smaller.values() if name not in known]:
        raise PruneoptError(
            f"'{missing[0]}', which was to be an input or output, is gone; leave out inputs=true"
        )
    shapes = context.observation(model).shapes
    for name, inner in context.smaller.items():
        small = known[inner]
        sizes = [s[0] if len(set(s)) == 1 else None for s in shapes[inner]]
        for ends in (graph.inputs, graph.outputs):
            for at, tensor in enumerate(ends):
                if tensor.name == name:
                    whole = tensor.shape or sizes
                    shape = [n if isinstance(w, int) and n else w for w, n in zip(whole, sizes, strict=True)]
                    ends[at] = _instead(graph, tensor, small, shape, ends is graph.inputs)
    drop_dead(graph)
    _check(model, made, context)
    return made


def _instead(
    graph: gs.Graph, tensor: gs.Variable, small: gs.Variable, shape: list[int | str], is_input: bool
) -> gs.Variable:
    """What takes the place of an input or output."""
    if not is_input:
        tensor.inputs.clear()
        small.name, small.shape, small.dtype = tensor.name, shape, tensor.dtype
        return small
    fresh = gs.Variable(tensor.name, tensor.dtype, shape)
    tensor.name = f"{tensor.name}_whole"
    read_instead(small, fresh)
    return fresh


def _check(model: Model, made: Model, context: Context) -> None:
    """Fed with the smaller inputs, the copy makes the smaller outputs."""
    inputs = {t.name for t in model.graph.inputs}
    ends = {t.name: context.smaller.get(t.name, t.name) for t in model.graph.outputs}
    fronts = {n: inner for n, inner in context.smaller.items() if n in inputs}
    whole = context.session(model, [*ends.values(), *fronts.values()], optimize=False)
    alone = context.session(made, list(ends), optimize=False)
    for feeds in context.feeds:
        expected = whole.run(feeds)
        found = alone.run({**feeds, **{name: expected[inner] for name, inner in fronts.items()}})
        for name, inner in ends.items():
            if not np.all(distance(expected[inner], found[name]) <= TOLERANCE):
                raise PruneoptError(
                    f"output '{name}' is another one with smaller inputs; please report this model"
                )
