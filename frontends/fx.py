"""PyTorch modules and exported programs to `Model`; tensors keep the names that they have in the module.

The exporter is asked not to optimise: it would fold normalisation into convolutions and rename what it transposes.
Weights stay as the module has them, the nodes that turn them are there to see, and `simplify` folds these later.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from pruneopt.errors import PruneoptError, UsageError
from pruneopt.frontends import extras
from pruneopt.frontends import onnx as frontend
from pruneopt.frontends.numbers import fold_numbers, settle_casts
from pruneopt.model import Model, constants

KIND = "torch.kind"  # metadata of a tensor: whether it was a parameter or a buffer of the module
SIZES = {"Shape", "Size"}
METADATA_SINCE = 10  # IR version from which on tensors have metadata


def from_module(
    module: Any, example_inputs: Any = None, dynamic_shapes: Any = None, opset: int | None = None
) -> Model:
    """The model of a module, or of an `ExportedProgram`, in evaluation mode.

    Args:
        module: a `torch.nn.Module`, which stays as it is, or a `torch.export.ExportedProgram`.
        example_inputs: a tuple of arguments or a dict of keyword arguments; needed for a module.
        dynamic_shapes: which dimensions vary, as `torch.export.export` wants it; by default none.
        opset: the operator set to export for; the exporter's own by default.

    Raises:
        UsageError: example inputs are missing.
        PruneoptError: PyTorch or onnxscript is not installed, or the exporter cannot export the module.
    """
    torch = require_exporter()
    if isinstance(module, torch.export.ExportedProgram):
        return _model(_exported(module, (), {}, None, opset), _names_of_program(module))
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"from_torch takes a torch.nn.Module or an ExportedProgram, not {type(module).__name__}"
        )
    if example_inputs is None:
        raise UsageError(
            "from_torch needs example inputs: a tuple of arguments, or a dict of keyword arguments"
        )
    args, kwargs = _arguments(example_inputs)
    with _evaluating(module):
        proto = _exported(module, args, kwargs, dynamic_shapes, opset)
    return _model(proto, _names_of_module(module))


def require_exporter() -> Any:
    """The module `torch`. Raises PruneoptError where it or onnxscript is not installed."""
    try:
        import onnxscript  # noqa: F401
        import torch
        import torch.export
        import torch.onnx
    except ImportError:
        raise PruneoptError("this needs PyTorch and onnxscript: pip install 'pruneopt[torch]'") from None
    return torch


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return tuple(example_inputs) if isinstance(example_inputs, Sequence) else (example_inputs,), {}


@contextlib.contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """The module in evaluation mode, and afterwards each part of it in the mode that it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's progress and warnings, which users cannot act on."""
    known = logging.getLogger("torch"), logging.getLogger("onnxscript"), logging.getLogger("onnx_ir")
    levels = [logger.level for logger in known]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in known:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(known, levels, strict=True):
                logger.setLevel(level)


def _exported(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any, opset: int | None
) -> onnx.ModelProto:
    with quiet():
        try:
            return _as_onnx(module, args, kwargs, dynamic_shapes, opset)
        except Exception as error:  # PyTorch raises whatever its layers raise
            again = _with_copies(module, args, kwargs, dynamic_shapes)
            if again is None:
                raise PruneoptError(f"PyTorch could not export the module: {first_line(error)}") from error
        try:
            return _as_onnx(again, (), {}, None, opset)
        except Exception as error:
            raise PruneoptError(f"PyTorch could not export the module: {first_line(error)}") from error


def _as_onnx(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any, opset: int | None
) -> onnx.ModelProto:
    program = require_exporter().onnx.export(
        module, args, kwargs=kwargs or None, dynamo=True, optimize=False, verbose=False,
        dynamic_shapes=dynamic_shapes, opset_version=opset,
    )  # fmt: skip
    proto: onnx.ModelProto = program.model_proto
    return proto


def _with_copies(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any) -> Any:
    """The exported program with a contiguous copy of every attention's result; None where there is none, or no program.

    PyTorch's attention leaves its result with the tokens before the heads, so that heads are joined by a view. The
    exporter then replaces it by products that leave heads first, and the view is refused.
    """
    torch = require_exporter()
    try:
        program = torch.export.export(module, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)
    except Exception:  # then the first attempt's error says why
        return None
    attention = torch.ops.aten.scaled_dot_product_attention.default
    found = [node for node in program.graph.nodes if node.target is attention]
    for node in found:
        with program.graph.inserting_after(node):
            copy = program.graph.call_function(torch.ops.aten.clone.default, (node,))
        copy.kwargs = {"memory_format": torch.contiguous_format}
        copy.meta = dict(node.meta)
        node.replace_all_uses_with(copy, delete_user_cb=lambda user, copy=copy: user is not copy)
    return program if found else None


def first_line(error: BaseException) -> str:
    """The first telling line of the innermost error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@dataclass(frozen=True)
class Names:
    """What a module calls its tensors: kind of each, and the first name of those that have several."""

    kinds: dict[str, str]
    first: dict[str, str]


def _names_of_module(module: Any) -> Names:
    parameters = list(module.named_parameters(remove_duplicate=False))
    return _names(parameters, list(module.named_buffers(remove_duplicate=False)))


def _names_of_program(program: Any) -> Names:
    return _names(list(program.named_parameters()), list(program.named_buffers()))


def _names(parameters: list[tuple[str, Any]], buffers: list[tuple[str, Any]]) -> Names:
    kinds = dict.fromkeys((name for name, _ in buffers), "buffer")
    kinds |= dict.fromkeys((name for name, _ in parameters), "parameter")
    known: dict[int, str] = {}
    return Names(kinds, {name: known.setdefault(id(tensor), name) for name, tensor in parameters})


def _model(proto: onnx.ModelProto, names: Names) -> Model:
    settle_casts(proto.graph)
    fold_numbers(proto, names.kinds)
    model = frontend.from_proto(proto)
    known = constants(model.graph)
    taken = {constant.name for constant in known}
    for constant in known:
        first = names.first.get(constant.name, constant.name)
        constant.name = constant.name if first in taken else first
    if model.header.ir_version >= METADATA_SINCE:
        _record(model, names.kinds)
    name_turned(model.graph, set(names.kinds))
    _name_numbers(model.graph, set(names.kinds))
    return model


def _record(model: Model, kinds: Mapping[str, str]) -> None:
    """Write down at each tensor what it was in the module: shapes do not tell a learned scalar from a number.

    Numbers of the exporter's own do not learn.
    """
    for constant in constants(model.graph):
        known = extras.of_constant(constant)
        if known is not None:
            known.stored.header.metadata_props.add(key=KIND, value=kinds.get(constant.name, "buffer"))


def name_turned(graph: gs.Graph, names: set[str]) -> None:
    """Tensors that are computed from the module's own tensors alone are called after these.

    `fc.weight.T` is a transposed matrix, `a+b//val_7` something made of a and b that the exporter called val_7.
    """
    ends = {id(tensor) for tensor in graph.outputs}
    sources: dict[int, tuple[str, ...]] = {}
    for node in graph.nodes:
        if not node.inputs or any(True for _ in node.subgraphs()):
            continue
        if node.op in SIZES:  # however long the input is, its sizes are numbers
            sources.update((id(tensor), ()) for tensor in node.outputs)
            continue
        origins = [_origins(tensor, sources, names) for tensor in node.inputs if tensor.name]
        if any(origin is None for origin in origins):
            continue
        found = tuple(dict.fromkeys(name for origin in origins for name in origin or ()))
        for tensor in node.outputs:
            sources[id(tensor)] = found
            if found and id(tensor) not in ends:
                tensor.name = _turned(node, found) or f"{'+'.join(found)}//{tensor.name}"


def _name_numbers(graph: gs.Graph, names: set[str]) -> None:
    """Vectors of the exporter's own (the zero bias of a convolution) are named after the weight beside them."""
    for node in graph.nodes:
        weights = [t.name for t in node.inputs if isinstance(t, gs.Constant) and t.name in names]
        for tensor in node.inputs if len(weights) == 1 else ():
            own = isinstance(tensor, gs.Constant) and tensor.name not in names and len(tensor.outputs) == 1
            if own and len(tensor.shape) == 1 and tensor.shape[0] > 1:
                tensor.name = f"{weights[0]}//{tensor.name}"


def _origins(
    tensor: gs.Tensor, sources: Mapping[int, tuple[str, ...]], names: set[str]
) -> tuple[str, ...] | None:
    """The module's tensors that a tensor is made of; None where it depends on the input."""
    if isinstance(tensor, gs.Constant):
        return (tensor.name,) if tensor.name in names else ()
    return sources.get(id(tensor))


def _turned(node: gs.Node, found: tuple[str, ...]) -> str:
    """The name of a transposed matrix that nothing else is called; empty for anything else."""
    first = node.inputs[0]
    plain = node.op == "Transpose" and isinstance(first, gs.Constant) and len(first.shape) == 2
    twice = sum(consumer.op == "Transpose" for consumer in first.outputs) > 1
    return f"{found[0]}.T" if plain and not twice else ""
