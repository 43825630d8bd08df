"""Where the time of a graph goes: its nodes, gathered into what the runtime makes one kernel of.

Nodes and tensors are renamed by number, so that a kernel's name tells which node it was made from. A node
that no kernel is named after was fused into another; kernels that the runtime adds (changes of layout) count
with the kernel before them, whose result they work on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.analysis.axes import Axis, atoms
from pruneopt.analysis.bodies import nodes_of
from pruneopt.analysis.infer import Analysis
from pruneopt.analysis.masks import size_of
from pruneopt.model import Model

MARK = re.compile(r"pruneopt(\d+)#")
BLOCKED = "_nchwc"  # what the runtime appends to the output's name of a convolution in its own layout
Axes = tuple[Axis, ...]


@dataclass(frozen=True, eq=False)
class Site:
    """Nodes that run as one kernel, or that are timed together.

    Attributes:
        op: of the node that the kernel is named after.
        work: axes of each of its products, whose sizes multiply to a number of multiply-accumulates.
        traffic: axes of each tensor that it reads or writes, constants included.
        signature: ops, attributes and types; together with the sizes of `traffic`, what its time depends on.
    """

    op: str
    work: tuple[Axes, ...]
    traffic: tuple[Axes, ...]
    signature: str

    def key(self, kept: Mapping[Axis, int]) -> str:
        """Its name in the latency table when each atom in `kept` has that many entries."""
        sizes = "x".join(",".join(str(size_of(a, kept, -1)) for a in axes) for axes in self.traffic)
        return f"{self.op} {sha256((self.signature + sizes).encode()).hexdigest()[:24]}"

    def varying(self, free: set[Axis]) -> list[Axis]:
        """Its axes that contain atoms that may shrink, each once."""
        every = {id(a): a for axes in (*self.work, *self.traffic) for a in axes}
        return [a for a in every.values() if not free.isdisjoint(atoms(a))]


class Layout:
    """The sites of a graph, and which kernel belongs to which."""

    def __init__(self, analysis: Analysis, kernels: Sequence[tuple[str, float]], number: Numbering) -> None:
        self.number = number
        self._analysis = analysis
        self._nodes = list(nodes_of(analysis.model.graph))
        self._at = {id(node): i for i, node in enumerate(self._nodes)}
        named = {i for name, _ in kernels if (i := number.of(name)) is not None}
        self._site = [self._gathered(node, named) for node in self._nodes]
        self.sites = {i: self._made(i) for i in sorted(named)}

    def times(self, kernels: Sequence[tuple[str, float]]) -> dict[int, float]:
        """Milliseconds of each site, from the kernels of this graph or of a smaller one."""
        found = dict.fromkeys(self.sites, 0.0)
        current = next(iter(found), None)
        for name, ms in kernels:
            node = self.number.of(name)
            current = self._site[node] if node is not None and self._site[node] is not None else current
            if current is not None:
                found[current] += ms
        return found

    def parts(self, marked: Model) -> dict[int, list[gs.Node]]:
        """The nodes of each site in a marked model; sites with nodes inside bodies are left out."""
        found: dict[int, list[gs.Node]] = {}
        for node in marked.graph.nodes:
            number = self.number.of(node.name)
            site = None if number is None else self._site[number]
            if site is not None and not any(True for _ in node.subgraphs()):
                found.setdefault(site, []).append(node)
        return found

    def _gathered(self, node: gs.Node, named: set[int]) -> int | None:
        """The site of a node: its own, that of its only reader, or that of what it reads."""
        at: gs.Node | None = node
        for _ in range(12):  # no fusion is longer
            if at is None:
                break
            if self._at[id(at)] in named:
                return self._at[id(at)]
            readers = list({id(n): n for t in at.outputs for n in t.outputs if id(n) in self._at}.values())
            at = readers[0] if len(readers) == 1 else None
        sources = (n for t in node.inputs for n in t.inputs if id(n) in self._at)
        return next((self._at[id(n)] for n in sources if self._at[id(n)] in named), None)

    def _made(self, site: int) -> Site:
        analysis = self._analysis
        members = [node for node, own in zip(self._nodes, self._site, strict=True) if own == site]
        inside = {id(node) for node in members}
        work = tuple(axes for node, axes in analysis.macs if id(node) in inside)
        tensors = {t.name: t for node in members for t in _ends(node, inside)}
        constants = [tuple(u.axes) for u in analysis.uses if id(u.node) in inside]
        traffic = [tuple(analysis.axes[name]) for name in tensors if name in analysis.axes]
        said = [_described(node) for node in members]
        said += sorted(n.op for t in tensors.values() for n in t.outputs if id(n) not in inside)
        return Site(self._nodes[site].op, work, (*traffic, *constants), "; ".join(said))


class Numbering:
    """Numbers of the nodes of a graph, which its smaller versions share: they keep the tensors' names."""

    def __init__(self, model: Model) -> None:
        self._place = {
            node.outputs[0].name: i for i, node in enumerate(nodes_of(model.graph)) if node.outputs
        }

    def marked(self, model: Model) -> Model:
        """A copy whose nodes and inner tensors are named by number."""
        copy = model.copy()
        graphs = (copy.graph, *copy.graph.subgraphs(recursive=True))
        ends = {t.name for graph in graphs for t in (*graph.inputs, *graph.outputs)}
        for node in nodes_of(copy.graph):
            number = self._place.get(node.outputs[0].name) if node.outputs else None
            if number is not None:
                node.name = f"pruneopt{number}#"
                for i, tensor in enumerate(node.outputs):
                    if tensor.name and tensor.name not in ends:
                        tensor.name = f"{node.name}{i}"
        return copy

    def of(self, kernel: str) -> int | None:
        """The node that a kernel of a marked model was made from."""
        mark = MARK.search(kernel)
        return int(mark[1]) if mark else self._place.get(kernel.removesuffix(BLOCKED))


def _ends(node: gs.Node, inside: set[int]) -> Iterator[gs.Variable]:
    """What goes in from outside and out to outside."""
    for tensor in node.inputs:
        if isinstance(tensor, gs.Variable) and not any(id(n) in inside for n in tensor.inputs):
            yield tensor
    for tensor in node.outputs:
        if not tensor.outputs or any(id(n) not in inside for n in tensor.outputs):
            yield tensor


def _described(node: gs.Node) -> str:
    """Op, attributes, and the type of each input, a constant or not."""
    types = [str(t.dtype) if isinstance(t, gs.Constant) else "-" for t in node.inputs]
    attributes = {k: _plain(v) for k, v in sorted(node.attrs.items())}
    return f"{node.domain or ''}:{node.op} {attributes} {types}"


def _plain(value: object) -> str:
    if isinstance(value, gs.Graph):
        return " ".join(_described(n) for n in value.nodes)
    if isinstance(value, gs.Tensor):
        return str(value.shape)
    return str(value.tolist()) if isinstance(value, np.ndarray) else str(value)
