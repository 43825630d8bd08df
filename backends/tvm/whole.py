"""The whole model as one library for TVM's Relax machine, for targets where ONNX Runtime does not run.

The nodes that `rewriting` has put into the graph become calls of the same kernels; what else there is, TVM compiles
by itself. Sizes are fixed: they are those of the input that the kernels were tuned for.

    machine = tvm.relax.VirtualMachine(tvm.runtime.load_module("out.so"), tvm.cpu())
    outputs = machine["main"](*inputs)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pruneopt.backends.tvm.compiler import QUICK, Plan
from pruneopt.backends.tvm.layer import digest
from pruneopt.backends.tvm.library import compiler, export
from pruneopt.backends.tvm.measure import shares
from pruneopt.backends.tvm.target import Target
from pruneopt.backends.tvm.templates.frame import ARGUMENTS, Frame, builder
from pruneopt.errors import PruneoptError
from pruneopt.model import Model

Shapes = Mapping[str, Sequence[int]]


def write(
    model: Model, plans: Sequence[Plan], shapes: Shapes, target: Target, threads: int, path: Path
) -> None:
    """Compiles `model`, as `rewrite` has left it, for inputs of `shapes`, into the shared library `path`.

    Raises PruneoptError where TVM cannot read or compile one of the other ops.
    """
    import tvm
    from tvm import relax

    compiler(target)  # says that there is none before the work is done
    try:
        module = _imported(model, plans, shapes, threads)
        with tvm.transform.PassContext(opt_level=3, config=QUICK):
            made = relax.build(module, target=target.tvm())
    except Exception as error:  # TVM raises its own classes for each of the ways this can fail
        why = " ".join(str(error).split())[-300:]
        raise PruneoptError(f"TVM cannot compile the whole model for {target.key}: {why}") from error
    export(made, path, target)


def opened(path: Path, threads: int = 1) -> Callable[[Sequence[Any]], list[Any]]:
    """A library that `write` made, as a function from arrays to arrays."""
    import tvm
    from tvm import relax

    tvm.get_global_func("runtime.config_threadpool")(1, threads)
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(path.resolve())), tvm.cpu())

    def run(inputs: Sequence[Any]) -> list[Any]:
        found = machine["main"](*map(tvm.runtime.tensor, inputs))
        return [each.numpy() for each in ([found] if hasattr(found, "numpy") else found)]

    return run


def _imported(model: Model, plans: Sequence[Plan], shapes: Shapes, threads: int) -> Any:
    """The Relax module of a model: TVM's own importer, which is told about the kernels."""
    from tvm import relax
    from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

    known = {plan.name: plan for plan in plans}

    class Importer(ONNXGraphImporter):  # type: ignore[misc]
        def _check_for_unsupported_ops(self, graph: Any) -> None:
            rest = type(graph)()
            rest.node.extend(node for node in graph.node if node.op_type not in known)
            super()._check_for_unsupported_ops(rest)

        def _convert_operator(self, name: str, inputs: Any, attrs: Any, opset: int) -> Any:
            if name not in known:
                return super()._convert_operator(name, inputs, attrs, opset)
            return _called(self.bb, known[name], list(inputs), threads)

    sizes = {tensor.name: list(shapes[tensor.name]) for tensor in model.inputs}
    module = Importer(sizes, "float32").from_onnx(model.proto().graph, model.opset())
    return relax.transform.DecomposeOpsForInference()(module)


def _called(block: Any, plan: Plan, inputs: list[Any], threads: int) -> Any:
    """A call of a kernel on all rows or images of x: flat tensors in, the shape of y out."""
    from tvm import relax

    shape = [int(size) for size in inputs[0].ty.shape.values]
    image = plan.layer.image
    outputs = plan.layer.groups * plan.layer.outputs
    n = shape[0] if image else int(np.prod(shape[:-1]))
    made = [shape[0], outputs, *image.out] if image else [*shape[:-1], outputs]
    flat = [block.normalize(relax.op.reshape(each, [-1])) for each in inputs]
    lengths = [int(each.ty.shape.values[0]) for each in flat] + [int(np.prod(made))]
    name = f"{plan.name}_{digest(n, lengths)}"  # layers of one shape differ in how many non-zeros they have
    function = _on_all(plan, name, n, lengths, threads)
    call = relax.call_tir(block.add_func(function, name), flat, relax.TensorType([lengths[-1]], "float32"))
    return block.normalize(relax.op.reshape(block.emit(call), made))


def _on_all(plan: Plan, name: str, n: int, lengths: Sequence[int], threads: int) -> Any:
    """The kernel as a function of tensors of fixed lengths, cut into tasks with working memory of their own."""
    from tvm.script.ir_builder import IRBuilder

    T = builder()
    names = [name for name in ARGUMENTS if name != "scratch"]
    kinds = {"offsets": plan.offsets, "starts": "int32"}
    tasks = shares(plan, n, threads)
    with IRBuilder() as made, T.prim_func():
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        handles = [T.arg(name, T.handle()) for name in names]
        x, values, offsets, starts, bias, y = (
            T.match_buffer(handle, (length,), kinds.get(name, "float32"))
            for handle, name, length in zip(handles, names, lengths, strict=True)
        )
        parts = tasks[0][0]
        units = tasks[-1][2]
        with T.parallel(0, len(tasks)) as task:
            scratch = T.alloc_buffer((plan.scratch,), "float32", scope="global")
            first, last = task * units // len(tasks), (task + 1) * units // len(tasks)
            plan.template().emit(
                Frame(plan.lanes, x, values, offsets, starts, bias, y, scratch, n, parts, first, last)
            )
    return made.get()
