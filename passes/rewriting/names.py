"""Names for new tensors and nodes that nothing in the graph has."""

from __future__ import annotations

import onnx_graphsurgeon as gs


class Names:
    """Hands out names that are free in a graph and its bodies."""

    def __init__(self, graph: gs.Graph) -> None:
        graphs = (graph, *graph.subgraphs(recursive=True))
        self._taken = {t.name for g in graphs for t in _tensors(g)} | {
            n.name for g in graphs for n in g.nodes
        }
        self._last: dict[str, int] = {}  # so that many equal wishes take linear time

    def new(self, wish: str) -> str:
        """`wish`, or `wish_2`, `wish_3`, ... where it is taken."""
        count = self._last.get(wish, 1)
        name = wish if count == 1 else f"{wish}_{count}"
        while name in self._taken:
            count += 1
            name = f"{wish}_{count}"
        self._last[wish] = count
        self._taken.add(name)
        return name

    def instead(self, constant: gs.Constant, ending: str) -> str:
        """For what takes a constant's place: the name that users know where nothing else reads it, or a new one."""
        return str(constant.name) if len(constant.outputs) == 1 else self.new(f"{constant.name}_{ending}")


def _tensors(graph: gs.Graph) -> list[gs.Tensor]:
    return [*graph.inputs, *graph.outputs, *(t for n in graph.nodes for t in (*n.inputs, *n.outputs))]
