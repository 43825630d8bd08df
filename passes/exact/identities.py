"""Identity and dead nodes."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from pruneopt.passes.rewriting.edits import ends_of, read_instead


def drop_identities(graph: gs.Graph) -> None:
    ends = {t.name for t in graph.outputs} | {
        t.name for g in graph.subgraphs(recursive=True) for t in g.outputs
    }
    for node in graph.nodes:
        if _is_identity(node) and node.outputs[0].name not in ends:
            # Dead now. It keeps its output: gs removes nodes by equality, and nameless ones without outputs are equal.
            read_instead(node.outputs[0], node.inputs[0])


def _is_identity(node: gs.Node) -> bool:
    if (
        node.domain not in (None, "", "ai.onnx")
        or not node.outputs
        or len([o for o in node.outputs if o.name]) > 1
    ):
        return False
    if node.op == "Dropout":
        return len(node.inputs) < 3 or not node.inputs[2].name
    return bool(node.op == "Identity")


def drop_dead(graph: gs.Graph) -> None:
    """Remove nodes none of whose outputs is used, from the end of the graph to its start."""
    ends = ends_of(graph)
    alive = []
    for node in reversed(graph.nodes):
        if any(t.outputs or id(t) in ends for t in node.outputs):
            alive.append(node)
        else:
            node.inputs.clear()
            node.outputs.clear()
    graph.nodes = alive[::-1]
