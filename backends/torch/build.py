"""`Model` to `torch.fx.GraphModule`: one call per node, weights as parameters under their own names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import torch
from torch import fx

from pruneopt.backends.torch.names import Paths, identifier, unique
from pruneopt.backends.torch.origin import META, TENSOR, Origin
from pruneopt.backends.torch.table import ASKED, Entry, find
from pruneopt.backends.torch.values import constant as literal
from pruneopt.backends.torch.values import to_tensor
from pruneopt.backends.torch.weights import SMALL, Role, Roles
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model, values

TRAINING = "training"


def to_torch(
    model: Model, outputs: Sequence[str] | None = None, trainable: Sequence[str] = ()
) -> fx.GraphModule:
    """The model as a module that can be trained, in evaluation mode.

    Args:
        model: stays as it is; the module has its own copies of the weights.
        outputs: tensors of the main graph to return instead of the model's outputs.
        trainable: glob patterns of tensors that learn though they look like no weights (learned scalars).

    Returns:
        A module that takes the model's inputs by position or by name (made identifiers) and returns the output,
        or a tuple of the outputs in the model's order. `meta["pruneopt"]` is its `Origin`.

    Raises:
        PruneoptError: an op or element type is not known in PyTorch; names all such ops and their first nodes.
        UsageError: one of `outputs` is no tensor of the main graph.
    """
    model = model.copy()
    _check_ops(model)
    state = _State(model, Roles(model, trainable))
    builder = _Builder(state, None)
    arguments = builder.placeholders(model.inputs)
    builder.nodes(model.graph)
    ends = model.outputs if outputs is None else _named(model, outputs)
    found = [builder.value(tensor) for tensor in ends]
    builder.graph.output(found[0] if len(found) == 1 else tuple(found))
    module = fx.GraphModule(state.held, builder.graph, "PrunedModel")
    module.meta[META] = Origin(model, state.weights, arguments, [tensor.name for tensor in ends])
    return module.eval()


def _named(model: Model, names: Sequence[str]) -> list[gs.Tensor]:
    tensors: dict[str, gs.Tensor] = {t.name: t for t in (*model.graph.inputs, *model.outputs)}
    for node in model.graph.nodes:
        tensors.update((t.name, t) for t in (*node.inputs, *node.outputs) if t.name)
    for name in names:
        if name not in tensors:
            raise UsageError(f"the model's main graph has no tensor '{name}'")
    return [tensors[name] for name in names]


def _check_ops(model: Model) -> None:
    missing: dict[str, str] = {}
    for node in (node for graph in _graphs(model.graph) for node in graph.nodes):
        if find(node.domain, node.op, model.opset(node.domain or "")) is None:
            missing.setdefault(f"{node.domain}.{node.op}" if node.domain else node.op, _name(node))
    if missing:
        listed = ", ".join(f"{op} (node '{name}')" for op, name in missing.items())
        raise PruneoptError(
            f"the PyTorch backend does not know {listed}: keep such models in ONNX, or export them without"
        )


def _graphs(graph: gs.Graph) -> list[gs.Graph]:
    return [graph, *graph.subgraphs(recursive=True)]


def _name(node: gs.Node) -> str:
    return node.name or (node.outputs[0].name if node.outputs else "")


class _State:
    """What the main graph and all bodies share: what the module holds, by path."""

    def __init__(self, model: Model, roles: Roles) -> None:
        self.model = model
        self.roles = roles
        self.paths = Paths()
        self.held: dict[str, Any] = {}
        self.weights: dict[str, gs.Constant] = {}

    def hold(self, constant: gs.Constant) -> str:
        """The path of a constant's parameter or buffer."""
        path = self.paths.path(constant.name)
        try:
            tensor = to_tensor(values(constant))
        except PruneoptError as error:
            raise PruneoptError(f"constant '{constant.name}': {error}") from None
        learns = self.roles.of(constant) is Role.PARAMETER
        self.held[path] = torch.nn.Parameter(tensor) if learns else tensor
        self.weights[path] = constant
        return path


class _Builder:
    """Builds the graph of the model, or of a body inside `around`."""

    def __init__(self, state: _State, around: _Builder | None) -> None:
        self.state = state
        self.around = around
        self.graph = fx.Graph()
        self.known: dict[int, fx.Node] = {}
        self._training: fx.Node | None = None

    def placeholders(self, tensors: Sequence[gs.Tensor]) -> dict[str, str]:
        """Arguments for tensors: tensor name -> argument."""
        taken: set[str] = {"self"}
        arguments = {}
        for tensor in tensors:
            arguments[tensor.name] = unique(identifier(tensor.name), taken)
            self._is(tensor, self.graph.placeholder(arguments[tensor.name]))
        return arguments

    def _is(self, tensor: gs.Tensor, node: fx.Node) -> fx.Node:
        node.meta[TENSOR] = tensor.name
        self.known[id(tensor)] = node
        return node

    def nodes(self, graph: gs.Graph) -> None:
        """A call for every node; the graph is sorted."""
        for node in graph.nodes:
            self.node(node)

    def node(self, node: gs.Node) -> None:
        """The call that computes a node, and its outputs."""
        entry = find(node.domain, node.op, self.state.model.opset(node.domain or ""))
        assert entry is not None  # checked before
        arguments = tuple(self.input(entry, slot, tensor) for slot, tensor in enumerate(node.inputs))
        while arguments and arguments[-1] is None:
            arguments = arguments[:-1]
        attributes = self.attributes(node, entry)
        present = [(i, tensor) for i, tensor in enumerate(node.outputs) if tensor.name]
        name = present[0][1].name if present else node.op
        call = self.graph.create_node(
            "call_function", entry.function, arguments, attributes, f"{name}_all" if entry.several else name
        )
        if not entry.several:
            for _, tensor in present:
                self._is(tensor, call)
            return
        for i, tensor in present:
            self._is(tensor, self.graph.create_node("call_function", pick, (call, i), {}, tensor.name))

    def attributes(self, node: gs.Node, entry: Entry) -> dict[str, Any]:
        """Attributes as keyword arguments. Raises PruneoptError for one that is not known."""
        allowed = entry.parameters
        found = {}
        for name, value in node.attrs.items():
            if allowed is not None and name not in allowed:
                if isinstance(value, onnx.AttributeProto) or name not in _IGNORED:
                    raise PruneoptError(
                        f"{node.op} '{_name(node)}': the PyTorch backend does not know attribute '{name}'"
                    )
                continue
            found[name] = self.attribute(value)
        for name in ASKED & (allowed or frozenset()):
            found[name] = self.training() if name == TRAINING else _count(node)
        return found

    def attribute(self, value: Any) -> Any:
        """An attribute's value as an argument."""
        if isinstance(value, gs.Graph):
            return self.body(value)
        if isinstance(value, gs.Constant):
            return self.value(value)
        if isinstance(value, np.ndarray | np.generic):
            return value.tolist()
        if isinstance(value, type | np.dtype):
            return onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value))
        if isinstance(value, onnx.AttributeProto):
            return None  # types of optionals, which Python does not need
        return list(value) if isinstance(value, list | tuple) else value

    def training(self) -> fx.Node:
        """Whether the module is in training mode, read at run time."""
        if self._training is None:
            self.state.held[TRAINING] = False
            self._training = self.graph.create_node("get_attr", TRAINING)
        return self._training

    def input(self, entry: Entry, slot: int, tensor: gs.Tensor) -> Any:
        """An input as an argument: settings that are constant and small as Python values."""
        if not tensor.name and not isinstance(tensor, gs.Constant):
            return None
        if slot in entry.settings and isinstance(tensor, gs.Constant) and np.prod(tensor.shape) <= SMALL:
            return values(tensor).tolist()
        return self.value(tensor)

    def value(self, tensor: gs.Tensor) -> fx.Node:
        """The node that computes or holds a tensor."""
        found = self.known.get(id(tensor))
        if found is not None:
            return found
        if isinstance(tensor, gs.Constant):
            _check_width(tensor)
        else:
            raise PruneoptError(f"tensor '{tensor.name}' is used before it is computed: the model is damaged")
        if self.state.roles.of(tensor) is Role.LITERAL:
            value = to_tensor(values(tensor))
            dtype = str(value.dtype).removeprefix("torch.")
            return self._is(
                tensor,
                self.graph.create_node("call_function", literal, (value.tolist(), dtype), {}, tensor.name),
            )
        return self._is(tensor, self.graph.create_node("get_attr", self.state.hold(tensor), name=tensor.name))

    def body(self, graph: gs.Graph) -> tuple[fx.Node, tuple[fx.Node, ...]]:
        """A body as a module of its own, and what it captures from around it."""
        inner = _Builder(self.state, self)
        captured = self._captured(graph)
        inner.placeholders([*graph.inputs, *captured])
        inner.nodes(graph)
        inner.graph.output(tuple(inner.value(tensor) for tensor in graph.outputs))
        held = {TRAINING: False} if inner._training is not None else {}
        held |= {
            str(n.target): self.state.held[str(n.target)] for n in inner.graph.nodes if n.op == "get_attr"
        }
        path = self.state.paths.path(f"body_{graph.name or 'graph'}".replace(".", "_"))
        self.state.held[path] = fx.GraphModule(held, inner.graph, "Body")
        return self.graph.create_node("get_attr", path), tuple(self.value(tensor) for tensor in captured)

    def _captured(self, graph: gs.Graph) -> list[gs.Tensor]:
        """What a body uses and does not make, each once; numbers in the code are not captured."""
        made = {id(t) for g in _graphs(graph) for t in (*g.inputs, *(o for n in g.nodes for o in n.outputs))}
        used = [t for g in _graphs(graph) for t in (*(i for n in g.nodes for i in n.inputs), *g.outputs)]
        found = {id(t): t for t in used if id(t) not in made and t.name}
        return [t for t in found.values() if not self._is_literal(t)]

    def _is_literal(self, tensor: gs.Tensor) -> bool:
        return isinstance(tensor, gs.Constant) and self.state.roles.of(tensor) is Role.LITERAL


def _check_width(constant: gs.Constant) -> None:
    """Refuse what would have to round to 4 bits: such constants are held in 8."""
    narrow = np.dtype(constant.dtype).name in ("int4", "uint4")
    for node in constant.outputs if narrow else ():
        if node.op in ("QuantizeLinear", "CastLike"):
            raise PruneoptError(
                f"{node.op} '{_name(node)}' makes numbers of 4 bits, which PyTorch does not have"
            )


# Attributes of old opsets or other runtimes that change nothing here.
_IGNORED = {"consumed_inputs", "is_test", "cudnn_conv_algo"}


def pick(results: tuple[Any, ...], place: int) -> Any:
    """One of several outputs."""
    return results[place]


def _count(node: gs.Node) -> int:
    """The number of outputs up to the last that somebody uses."""
    return max((i + 1 for i, tensor in enumerate(node.outputs) if tensor.name), default=1)
