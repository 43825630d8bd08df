"""`python -m benchmarks.torch_coverage FOLDER_OR_FILE...`: every ONNX file as a PyTorch module, beside onnx2torch.

For each file, in a process of its own: is the module equal to ONNX Runtime at two input sizes, do gradients reach
its parameters, and is the way back exact? Needs PyTorch; onnx2torch is compared where it is installed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.isolated import run
from benchmarks.zoo import files

Record = dict[str, Any]
CLOSE = 1e-4  # largest error, relative to the largest magnitude of the output
CLOSE_HALF = 5e-3  # the same where weights are float16
LEAST = 1e-2  # magnitude from which on: the runtime's own sigmoid is exact to 1e-7 only
PEER = "onnx2torch"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torch_coverage", description=__doc__)
    parser.add_argument("places", nargs="+", type=Path, metavar="FOLDER_OR_FILE")
    parser.add_argument("--json", type=Path, metavar="RESULTS.json", help="write all figures there")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds for one file and tool [240]")
    parser.add_argument("--only", choices=("ours", PEER), help="one of the two")
    parser.add_argument("--one", choices=("ours", PEER), help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_ours(path: Path) -> Record:
    """What our module does with one file."""
    import torch

    from pruneopt import api, from_torch
    from pruneopt.model import Model, constants

    torch.set_num_threads(1)
    model = Model.load(path)
    context = api.make_context(model)
    module = model.to_torch()
    back = from_torch(module)
    record: Record = {"exact": back.proto() == model.proto()}
    record["error"] = _worst(model, context, lambda feeds: module(*feeds), bool(record["exact"]))
    record["half"] = any(str(c.dtype) == "float16" for c in constants(model.graph))
    return record | _gradients(module, [_tensor(v) for v in context.feeds[0].values()])


def measure_peer(path: Path) -> Record:
    """What onnx2torch does with one file."""
    import onnx
    import torch
    from onnx2torch import convert

    from pruneopt import api
    from pruneopt.model import Model

    torch.set_num_threads(1)
    module = convert(onnx.load(path)).eval()
    model = Model.load(path)
    context = api.make_context(model)
    return {"error": _worst(model, context, lambda feeds: module(*feeds), True)}


def _worst(model: Any, context: Any, module: Callable[[list[Any]], Any], fine: bool) -> float:
    """The largest error over both input sizes and all outputs, relative to each output's largest magnitude."""
    import numpy as np
    import torch

    session = context.backend.session(model)
    worst = 0.0
    for feeds in context.feeds:
        expected = list(session.run(feeds).values())
        with torch.no_grad():
            found = module([_tensor(value) for value in feeds.values()])
        found = [found] if isinstance(found, torch.Tensor) else list(found)
        for a, b in zip(expected, found, strict=True):
            if a.shape != tuple(b.shape):
                return float("inf")
            wide, other = a.astype(np.float64), b.double().numpy()
            scale = max(np.abs(wide).max(initial=0), LEAST)
            error = np.abs(wide - other).max(initial=0) / scale
            worst = max(worst, float("inf") if np.isnan(error) else float(error))
    return worst


def _tensor(value: Any) -> Any:
    from pruneopt.backends.torch.values import to_tensor

    return to_tensor(value)


def _gradients(module: Any, inputs: list[Any]) -> Record:
    """How many parameters there are, and the names of those that get no gradient or one that is not finite."""
    import torch

    found = module(*inputs)
    found = [found] if isinstance(found, torch.Tensor) else list(found)
    torch.manual_seed(0)
    terms = [(t * torch.randn(t.shape)).sum() for t in found if t.is_floating_point()]
    if not terms:
        return {"parameters": 0, "without_gradient": []}
    sum(terms[1:], terms[0]).backward()
    parameters = dict(module.named_parameters())
    bad = [n for n, p in parameters.items() if p.grad is None or not bool(torch.isfinite(p.grad).all())]
    matter = [name for name in bad if _matters(module, parameters[name], inputs, found)]
    return {"parameters": len(parameters), "without_gradient": matter}


def _matters(module: Any, parameter: Any, inputs: list[Any], expected: list[Any]) -> bool:
    """Whether the outputs change with a parameter; one in a branch that is not taken does not matter here."""
    import torch

    with torch.no_grad():
        old = parameter.clone()
        parameter.add_(torch.randn(parameter.shape))
        found = module(*inputs)
        parameter.copy_(old)
    found = [found] if isinstance(found, torch.Tensor) else list(found)
    return any(not torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def isolated(path: Path, tool: str, limit: float) -> Record:
    """One file with one tool, in a process of its own."""
    ran = run(
        [sys.executable, "-m", "benchmarks.torch_coverage", str(path), "--one", tool],
        limit,
        {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    if ran.code is None:
        return {"problem": f"longer than {limit:.0f} s"}
    if ran.code != 0:
        return {"problem": ran.last_words}
    found: Record = json.loads(ran.out.splitlines()[-1])
    return found | {"cpu": ran.cpu, "peak_mb": ran.peak_mb}


def verdict(record: Record) -> str:
    """One word, or what is wrong."""
    if "problem" in record:
        return str(record["problem"])
    if not record["error"] <= (CLOSE_HALF if record.get("half") else CLOSE):
        return f"wrong by {record['error']:.1e}"
    if not record.get("exact", True):
        return "not the same model after the way back"
    if record.get("without_gradient"):
        return f"no gradient for {len(record['without_gradient'])}"
    return "ok"


def table(records: Iterable[Record], tools: list[str]) -> str:
    """One line per file, then the counts."""
    rows = list(records)
    lines = ["| model | " + " | ".join(tools) + " | error |", "|---" * (len(tools) + 2) + "|"]
    for row in rows:
        error = row.get("ours", row[tools[0]]).get("error", float("nan"))
        lines.append(
            f"| {row['file']} | " + " | ".join(verdict(row[t])[:90] for t in tools) + f" | {error:.1e} |"
        )
    for tool in tools:
        fine = sum(verdict(row[tool]) == "ok" for row in rows)
        equal = sum(row[tool].get("error", 1.0) <= CLOSE for row in rows)
        lines.append(
            f"\n{tool}: {equal} of {len(rows)} equal ONNX Runtime to {CLOSE:g}; {fine} pass every check"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure one file as asked for by `isolated`, or all of them."""
    options = arguments()
    if options.one:
        measure = measure_ours if options.one == "ours" else measure_peer
        print(json.dumps(measure(options.places[0])))
        return
    tools = [options.only] if options.only else ["ours", PEER]
    records = []
    for path in files(options.places):
        record: Record = {"file": path.name}
        record |= {tool: isolated(path, tool, options.limit) for tool in tools}
        records.append(record)
        print(
            path.name,
            *(f"{tool}: {verdict(record[tool])}" for tool in tools),
            sep=" | ",
            file=sys.stderr,
            flush=True,
        )
        if options.json:
            options.json.write_text(json.dumps(records, indent=1))
    print(table(records, tools))


if __name__ == "__main__":
    main()
