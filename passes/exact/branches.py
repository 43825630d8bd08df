"""An If whose condition is known before the run becomes the branch that is taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx_graphsurgeon as gs

from pruneopt.analysis.bodies import nodes_of
from pruneopt.analysis.observe import Observation
from pruneopt.model import values


def take_branches(graph: gs.Graph, seen: Observation) -> None:
    """Puts branches that are always taken in place of their Ifs, where no name is used twice."""
    names = Counter(t.name for node in nodes_of(graph) for t in node.outputs if t.name)
    homes = [graph]
    while homes:
        home = homes.pop()
        home.nodes = [new for node in home.nodes for new in _taken(node, seen, names)]
        homes += [body for node in home.nodes for body in node.subgraphs()]


def _taken(node: gs.Node, seen: Observation, names: Counter[str]) -> Iterator[gs.Node]:
    branch = _branch(node, seen) if node.op == "If" else None
    if branch is None or any(names[t.name] > 1 for inner in nodes_of(branch) for t in inner.outputs):
        yield node
        return
    ends, results = list(branch.outputs), list(node.outputs)
    _let_go(node, branch)
    for inner in branch.nodes:
        yield from _taken(inner, seen, names)
    for end, result in zip(ends, results, strict=True):
        yield gs.Node("Identity", f"{result.name}//taken", {}, [end], [result])


def _let_go(node: gs.Node, branch: gs.Graph) -> None:
    """Neither the If nor the branch that is not taken reads anything any more."""
    for body in node.subgraphs():
        for inner in nodes_of(body) if body is not branch else ():
            inner.inputs.clear()
    node.inputs.clear()
    node.outputs.clear()


def _branch(node: gs.Node, seen: Observation) -> gs.Graph | None:
    condition = node.inputs[0]
    known = values(condition) if isinstance(condition, gs.Constant) else seen.static.get(condition.name)
    if known is None:
        return None
    found: gs.Graph = node.attrs["then_branch" if known.reshape(-1)[0] else "else_branch"]
    return found
