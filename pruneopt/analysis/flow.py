"""The dataflow between tensors that carry data: ancestors, dominators, and what dies when a tensor is bypassed.

Sets of tensors are the bits of an integer. Constants and tensors that derive from shapes alone carry no data:
they are left out of paths, and kept alive where something reads them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import onnx_graphsurgeon as gs

from pruneopt.analysis.observe import derived_tensors

END = ""  # the place before all inputs, and the one behind all outputs
Bits = int


class Flow:
    """Paths of data through a graph; tensors are known by name.

    Attributes:
        nodes: of the main graph, in order.
        maker: tensor -> place of the node that makes it.
        readers: tensor -> places of the nodes that read it, captured ones included.
        before: data tensor -> the bits of its ancestors, its own included.
        after: data tensor -> the bits of what depends on it, its own included.
        dominator: data tensor -> the last tensor that every path from an input to it goes through.
        follower: data tensor -> the first tensor that every path from it to an output goes through.
    """

    def __init__(self, graph: gs.Graph, told: Collection[int] = ()) -> None:
        """Paths through `graph`; nodes with an `id` in `told` need none of their inputs."""
        self.nodes: list[gs.Node] = list(graph.nodes)
        self.outputs = [t.name for t in graph.outputs]
        self.inputs = [t.name for t in graph.inputs]
        self.maker = {t.name: i for i, n in enumerate(self.nodes) for t in n.outputs if t.name}
        self._derived = derived_tensors(graph)
        known = self.maker.keys() | set(self.inputs)
        self._reads = [[t for t in _read(n) if t in known and id(n) not in told] for n in self.nodes]
        self.readers: dict[str, list[int]] = {}
        for i, names in enumerate(self._reads):
            for name in names:
                self.readers.setdefault(name, []).append(i)
        self.data = [n for n in (*self.inputs, *self.maker) if n not in self._derived]
        self.bit = {name: 1 << i for i, name in enumerate(self.data)}
        self.before = self._ancestors()
        self.after = self._descendants()
        self.dominator = self._dominators()
        self.follower = self._followers()

    def sources(self, name: str) -> list[str]:
        """The data tensors that the node which makes `name` reads."""
        return self.data_inputs(self.maker[name]) if name in self.maker else []

    def data_inputs(self, place: int) -> list[str]:
        """The data tensors that a node reads, each once."""
        return [n for n in self._reads[place] if n in self.bit]

    def made(self, places: Iterable[int]) -> Bits:
        """The data tensors that these nodes make."""
        found = 0
        for place in places:
            for tensor in self.nodes[place].outputs:
                found |= self.bit.get(tensor.name, 0)
        return found

    def reaches(self, source: str, target: str) -> bool:
        """Whether data flows from `source` to `target`, or they are the same."""
        return bool(self.before[target] & self.bit[source])

    def between(self, first: str, name: str) -> Bits:
        """The tensors on paths from `first` to `name`, `name` included."""
        return self.before[name] & self.after[first] & ~self.bit[first]

    def alive(self, bypass: Mapping[str, str], outputs: Collection[str] | None = None) -> set[int]:
        """Places of the nodes still needed when what reads a key of `bypass` reads its value instead.

        Args:
            bypass: tensor -> what takes its place, which must not depend on it.
            outputs: the graph outputs that stay; all of them by default.
        """
        queue = list(self.outputs if outputs is None else outputs)
        seen: set[str] = set()
        alive: set[int] = set()
        while queue:
            name = queue.pop()
            while name in bypass:
                name = bypass[name]
            if name in seen or name not in self.maker:
                continue
            seen.add(name)
            if self.maker[name] not in alive:
                alive.add(self.maker[name])
                queue += self._reads[self.maker[name]]
        return alive

    def _ancestors(self) -> dict[str, Bits]:
        before = {name: self.bit[name] for name in self.data if name not in self.maker}
        for place, node in enumerate(self.nodes):
            above = 0
            for name in self.data_inputs(place):
                above |= before[name]
            before |= {t.name: above | self.bit[t.name] for t in node.outputs if t.name in self.bit}
        return before

    def _descendants(self) -> dict[str, Bits]:
        after = dict(self.bit)
        for name in reversed(self.data):
            for source in self.sources(name):
                after[source] |= after[name]
        return after

    def _dominators(self) -> dict[str, str]:
        tree = _Tree()
        for name in self.data:
            tree.add(name, self.sources(name))
        return tree.parent

    def _followers(self) -> dict[str, str]:
        tree = _Tree()
        ends = set(self.outputs)
        for name in reversed(self.data):
            later = [t.name for i in self.readers.get(name, []) for t in self.nodes[i].outputs]
            later = [t for t in later if t in tree.depth]
            tree.add(name, [*later, END] if name in ends else later)
        return tree.parent


class _Tree:
    """A dominator tree, built in an order in which a tensor comes after all it depends on."""

    def __init__(self) -> None:
        self.parent: dict[str, str] = {}
        self.depth = {END: 0}

    def add(self, name: str, sources: Iterable[str]) -> None:
        parent: str | None = None
        for source in sources:
            parent = source if parent is None else self._common(parent, source)
        self.parent[name] = END if parent is None else parent
        self.depth[name] = self.depth[self.parent[name]] + 1

    def _common(self, a: str, b: str) -> str:
        while a != b:
            if self.depth[a] >= self.depth[b]:
                a = self.parent[a]
            else:
                b = self.parent[b]
        return a


def _read(node: gs.Node) -> list[str]:
    """Names that a node or a body of it reads, each once."""
    return list(dict.fromkeys(t.name for t in _tensors(node) if isinstance(t, gs.Variable) and t.name))


def _tensors(node: gs.Node) -> Iterator[gs.Tensor]:
    yield from node.inputs
    for body in node.subgraphs(recursive=True):
        for inner in body.nodes:
            yield from inner.inputs
        yield from body.outputs
