"""`python -m benchmarks.scaling [BLOCKS...]`: how pruneopt's own CPU time grows with the number of layers.

Stacked transformer layers are analysed, planned and rewritten with coupled groups, once at a ratio and once
under a budget; the time inside the runtime is left out. The exponent is the slope of log time over log nodes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.runtime_share import Share, counted
from benchmarks.stacked import transformer
from pruneopt.analysis.groups import find_groups
from pruneopt.analysis.infer import analyse
from pruneopt.api import make_context
from pruneopt.model import Model
from pruneopt.passes.context import Context
from pruneopt.passes.proof import prove
from pruneopt.passes.simplify import Simplify
from pruneopt.passes.width import Width

BLOCKS = (12, 24, 48, 96, 200)


@dataclass
class Clock:
    """CPU seconds of each step, those inside the runtime left out."""

    share: Share
    steps: dict[str, float] = field(default_factory=dict)

    def __call__(self, step: str, work: Callable[[], Any]) -> Any:
        """Do `work`, and write down what it cost."""
        begin = time.process_time() - self.share.cpu
        result = work()
        self.steps[step] = time.process_time() - self.share.cpu - begin
        return result


def measure(blocks: int) -> dict[str, float]:
    """Own CPU seconds of each step on a stack of `blocks` layers, with its number of `nodes`."""
    proto = transformer(blocks)
    with counted() as share:
        clock = Clock(share)
        model = clock("load", lambda: Model.from_proto(proto))
        context = clock("observe", lambda: _observed(model))
        simple = clock("simplify", lambda: Simplify().run(model, context).model)
        analysis = clock("analyse", lambda: analyse(simple, context.observation(simple)))
        clock("groups", lambda: find_groups(analysis))
        by_ratio, by_budget = Width(ratio=0.5, coupled=True), Width(macs=0.5, coupled=True)
        outcome = clock("width{ratio}", lambda: by_ratio.run(simple, context))
        clock("width{macs}", lambda: by_budget.run(simple, context))
        clock("verify", lambda: prove(outcome.model, outcome.claim, context))
    return {"nodes": len(proto.graph.node), **clock.steps}


def _observed(model: Model) -> Context:
    context = make_context(model)
    context.observation(model)
    return context


def exponents(rows: list[dict[str, float]]) -> dict[str, float]:
    """For each step, the slope of log seconds over log nodes."""
    nodes = np.log([row["nodes"] for row in rows])
    steps = [step for step in rows[0] if step != "nodes"]
    return {s: float(np.polyfit(nodes, np.log([max(row[s], 1e-4) for row in rows]), 1)[0]) for s in steps}


def main() -> None:
    """Measure, then print a table and the exponents."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("blocks", nargs="*", type=int, default=BLOCKS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    measure(1)  # imports
    rows = [measure(blocks) for blocks in options.blocks]
    growth = exponents(rows) if len(rows) > 1 else {}
    if options.json:
        print(json.dumps({"rows": rows, "exponents": growth}, indent=1))
        return
    print(f"| {' | '.join(rows[0])} |\n|{' --- |' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(f'{v:.2f}' if k != 'nodes' else str(v) for k, v in row.items())} |")
    if growth:
        print(f"| exponent | {' | '.join(f'{v:.2f}' for v in growth.values())} |")


if __name__ == "__main__":
    main()
