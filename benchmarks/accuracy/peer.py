"""`python -m benchmarks.accuracy.peer PEER TASK SHARE OUT.onnx`: another tool prunes a task's model to a share.

The ratio that the tool takes is found by bisection, because no tool but this one takes a budget.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.accuracy.task import Task
from benchmarks.accuracy.tasks import load

STEPS = 8


def main() -> None:
    """Write the pruned model, or end with one line that says why there is none."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.peer", description=__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("task")
    parser.add_argument("share", type=float)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    given = parser.parse_args()
    task = load(given.task, given.cache)[0]
    PEERS[given.peer](task, given.share, given.out)
    _name_dimensions(task.model, given.out)


def _name_dimensions(original: Path, out: Path) -> None:
    """Inputs and outputs are the original's; an exporter names their dimensions after its own taste."""
    import onnx

    dense, model = onnx.load(original, load_external_data=False), onnx.load(out)
    for mine, theirs in ((model.graph.input, dense.graph.input), (model.graph.output, dense.graph.output)):
        del mine[:]
        mine.extend(theirs)
    onnx.save(model, out)


def bisect(make: Callable[[float], tuple[Any, float]], share: float) -> Any:
    """What `make` gives at the smallest pruning ratio at which its share of the MACs is `share` or less."""
    low, high, best = 0.0, 0.95, None
    for _ in range(STEPS):
        ratio = (low + high) / 2
        made, kept = make(ratio)
        if kept <= share:
            best, high = made, ratio
        else:
            low = ratio
    if best is None:
        raise SystemExit(f"cannot reach {share:g} of the MACs; {kept:.2f} at the most")
    return best


def torch_pruning(task: Task, share: float, out: Path) -> None:
    """Torch-Pruning: L2 norms of coupled groups, the same ratio everywhere; nothing is said but which layers stay."""
    import torch
    import torch_pruning as tp  # type: ignore[import-not-found]

    if task.network is None:
        raise SystemExit("there is no PyTorch module of this model")
    net, heads = task.network()
    feeds = task.calibration[0]
    example = tuple(torch.from_numpy(array[:2]) for array in feeds.values())
    dense, _ = tp.utils.count_ops_and_params(net, example)

    def make(ratio: float) -> tuple[Any, float]:
        pruned, kept = copy.deepcopy((net, heads))
        importance = tp.importance.GroupMagnitudeImportance(p=2)
        tp.pruner.BasePruner(
            pruned, example, importance=importance, pruning_ratio=ratio, ignored_layers=kept
        ).step()
        macs, _ = tp.utils.count_ops_and_params(pruned, example)
        return pruned, macs / dense

    pruned = bisect(make, share)
    with torch.no_grad():
        if pruned(*example).shape != net(*example).shape:
            raise SystemExit("the outputs' shape has changed")
    _export(pruned, example, task, out)


def _export(net: Any, example: tuple[Any, ...], task: Task, out: Path) -> None:
    """ONNX with the names and the dynamic dimensions that the task's model has."""
    import onnx
    import torch

    graph = onnx.load(task.model, load_external_data=False).graph
    dims = [
        {i: torch.export.Dim.DYNAMIC for i, d in enumerate(t.type.tensor_type.shape.dim) if d.dim_param}
        for t in graph.input
    ]
    torch.onnx.export(
        net,
        example,
        str(out),
        dynamo=True,
        opset_version=18,
        external_data=False,
        input_names=[t.name for t in graph.input],
        output_names=[t.name for t in graph.output],
        dynamic_shapes=tuple(dims),
    )


def onnxsim(task: Task, share: float, out: Path, wanda: bool = False) -> None:
    """onnxsim: channels and heads by L2 norms, or these times the activations', the same ratio everywhere."""
    import onnx
    import onnxsim as sim  # type: ignore[import-not-found]

    import pruneopt as po

    simple, _ = sim.simplify(onnx.load(task.model))
    dense = _macs(po.load(task.model))

    def make(ratio: float) -> tuple[Any, float]:
        if wanda:
            made = sim.apply_structured_wanda_pruning(simple, task.calibration, sparsity=ratio)
            made = sim.apply_attention_head_wanda_pruning(made, task.calibration, sparsity=ratio)
        else:
            made = sim.apply_structured_pruning(simple, sparsity=ratio)
            made = sim.apply_attention_head_pruning(made, sparsity=ratio)
        onnx.save(made, out)
        return made, _macs(po.load(out)) / dense

    try:
        onnx.save(bisect(make, share), out)
    except SystemExit:
        out.unlink()
        raise


def _macs(model: Any) -> float:
    import pruneopt as po

    return float(po.compare(model, model)["input"]["macs"])


PEERS: dict[str, Callable[[Task, float, Path], None]] = {
    "Torch-Pruning": torch_pruning,
    "onnxsim": onnxsim,
    "onnxsim, Wanda": partial(onnxsim, wanda=True),
}

if __name__ == "__main__":
    main()
