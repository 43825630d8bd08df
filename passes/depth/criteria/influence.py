"""Block Influence (ShortGPT, arXiv 2403.03853): how little a block turns what goes through it."""

from __future__ import annotations

import numpy as np

from pruneopt.passes.depth.study import Study

TINY = 1e-30


def block_influence(study: Study) -> dict[str, float]:
    """1 - mean cosine of a block's entry and exit over all positions, by name."""
    sums = {unit.name: 0.0 for unit in study.units}
    counts = dict.fromkeys(sums, 0)
    for batch in study.ends():
        for name, (before, after) in batch.items():
            lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
            sums[name] += float(((before * after).sum(1) / np.maximum(lengths, TINY)).sum())
            counts[name] += len(before)
    return {name: 1 - sums[name] / max(counts[name], 1) for name in sums}
