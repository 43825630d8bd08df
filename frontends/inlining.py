"""Local functions of a model put in place of the nodes that call them."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import inliner

from pruneopt.errors import PruneoptError

Defaults = dict[tuple[str, str, str], list[onnx.AttributeProto]]


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without local functions; `model` is changed. Raises PruneoptError when that is impossible."""
    _state_defaults(model)
    try:
        result = inliner.inline_local_functions(model, convert_version=True)
    except Exception as error:  # the C++ library raises whatever it likes
        raise PruneoptError(f"the model's local functions cannot be inlined: {error}") from None
    if result.functions:
        names = ", ".join(f"{function.domain}.{function.name}" for function in result.functions)
        raise PruneoptError(
            f"the model's local functions {names} cannot be inlined: export the model without functions"
        )
    return result


def _state_defaults(model: onnx.ModelProto) -> None:
    """Writes the default attributes of functions at their calls: onnx's inliner forgets them."""
    defaults = {
        (function.domain, function.name, function.overload): list(function.attribute_proto)
        for function in model.functions
    }
    _complete(model.graph.node, defaults)
    for function in model.functions:
        _complete(function.node, defaults)


def _complete(nodes: Iterable[onnx.NodeProto], defaults: Defaults) -> None:
    for node in nodes:
        given = {attribute.name for attribute in node.attribute}
        known = defaults.get((node.domain, node.op_type, node.overload), [])
        node.attribute.extend(attribute for attribute in known if attribute.name not in given)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _complete(attribute.g.node, defaults)
