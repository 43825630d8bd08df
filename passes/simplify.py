"""Exact clean-up: what changes no output. Identities, values known before the run, dead code."""

from __future__ import annotations

from dataclasses import dataclass

from pruneopt.analysis.infer import analyse
from pruneopt.frontends.widen import narrow
from pruneopt.model import Model
from pruneopt.passes.base import Outcome
from pruneopt.passes.claims import Unchanged
from pruneopt.passes.context import Context
from pruneopt.passes.exact.affine import fold_affine
from pruneopt.passes.exact.branches import take_branches
from pruneopt.passes.exact.channels import idle_entries
from pruneopt.passes.exact.constants import fold
from pruneopt.passes.exact.duplicates import merge_duplicates
from pruneopt.passes.exact.gates import use_hard_sigmoids
from pruneopt.passes.exact.identities import drop_dead, drop_identities
from pruneopt.passes.exact.invariants import free_invariants
from pruneopt.passes.exact.lookups import reshape_lookups
from pruneopt.passes.exact.onehot import look_up_rows
from pruneopt.passes.rewriting.shrink import shrink


@dataclass(frozen=True)
class Simplify:
    """Exact steps.

    1. Identity, inference-time Dropout, loop states that no step changes and Ifs with a known condition go.
    2. Tensors that depend on constants and static sizes only become constants, where that does not grow the file.
    3. Looking up all rows in order is a Reshape, and a product with one-hot vectors is a lookup. Targets of Reshapes
       that are computed stay so: ONNX Runtime runs vision transformers up to a tenth slower when it knows all sizes.
    4. Of nodes that compute the same from the same, one stays.
    5. Scales and shifts of channels, BatchNormalization among them, are folded into the Conv, ConvTranspose or Gemm
       before them, or into the Convs behind. Hard sigmoids that are spelt out become one op, which runtimes fuse.
    6. Nodes and constants that nothing uses go.
    7. Where `idle` says so: channels, neurons and other entries that nothing reads, or that are always zero, go.
    """

    idle: bool = False

    def run(self, model: Model, context: Context) -> Outcome:
        """Returns the simplified copy; what its tensors look like carries over by name."""
        before = len(model.graph.nodes)
        seen = context.observation(model)
        small = model.copy()
        take_branches(small.graph, seen)
        drop_identities(small.graph)
        free_invariants(small.graph)
        fold(small.graph, narrow(model, seen.static))
        reshape_lookups(small.graph, seen)
        look_up_rows(small.graph, seen, small.opset())
        merge_duplicates(small.graph)
        shapes = {name: tuple(sizes) for name, sizes in seen.shapes.items()}
        use_hard_sigmoids(small.graph, shapes)
        fold_affine(small.graph, shapes)
        drop_dead(small.graph)
        if _wiring(small) == _wiring(model):
            small = model
        elif all(t.name in seen.shapes for n in small.graph.nodes for t in n.outputs if t.name):
            context.same_tensors(small, model)
        small = self._without_idle(small, context) if self.idle else small
        if small is model:
            return Outcome(model, {"nodes": [before, before]})
        nodes = {"nodes": [before, len(small.graph.nodes)]}
        return Outcome(small, nodes, Unchanged(model, context.feeds))

    def _without_idle(self, model: Model, context: Context) -> Model:
        analysis = analyse(model, context.observation(model), context.keep)
        masks = idle_entries(analysis)
        return shrink(analysis, masks) if masks else model


def _wiring(model: Model) -> list[tuple[str, list[str], list[str]]]:
    return [(n.op, [t.name for t in n.inputs], [t.name for t in n.outputs]) for n in model.graph.nodes]
