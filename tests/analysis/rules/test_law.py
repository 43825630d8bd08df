"""The law of every rule: `op'(compress(x)) == compress(op(zero_removed(x)))`.

`op'` is the node with its constants sliced and its witnesses rewritten, `zero_removed` puts zeros where a
removed entry is summed over. Where a statistic runs over an atom only the sizes can agree.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.infer import Analysis
from pruneopt.analysis.masks import Mask, Masks, mask_of
from pruneopt.analysis.op import Use
from pruneopt.model import values
from pruneopt.passes.rewriting.shrink import compress, shrink
from tests.analysis.rules.cases import CASES
from tests.analysis.rules.one_node import Array, Case, free_atoms, run

BY_NAME = {str(case): case for case in CASES}


def random_masks(case: Case, seed: int, exact: bool) -> dict[Axis, Mask]:
    rng = np.random.default_rng(seed)
    masks: dict[Axis, Mask] = {}
    for atom in free_atoms(case.analysis, exact):
        keep = rng.random(atom.size[0]) < 0.6
        keep[rng.integers(atom.size[0])] = True
        if not keep.all():
            masks[atom] = keep
    return masks


def compressed(analysis: Analysis, masks: Masks, tensors: dict[str, Array]) -> dict[str, Array]:
    return {n: compress(v, [mask_of(a, masks) for a in analysis.axes[n]]) for n, v in tensors.items()}


def zero_removed(case: Case, masks: Masks) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The original node with removed entries zeroed wherever they are contracted."""
    model, feeds = case.model.copy(), dict(case.feeds)
    for use in case.analysis.contractions:
        tensor = model.graph.nodes[0].inputs[use.slot]
        if isinstance(tensor, gs.Constant):
            zeroed = masked(values(tensor), use, masks, case)
            model.graph.nodes[0].inputs[use.slot] = gs.Constant(f"{tensor.name}_{use.slot}_{use.dim}", zeroed)
        else:
            feeds[tensor.name] = masked(feeds[tensor.name], use, masks, case)
    return model.proto(), feeds


def masked(value: Array, use: Use, masks: Masks, case: Case) -> Array:
    keep = mask_of(use.axis, masks)
    shape = [-1 if dim == use.dim else 1 for dim in range(value.ndim)]
    zero = case.inputs[use.zero] if 0 <= use.zero < len(case.inputs) else None
    return np.where(keep.reshape(shape), value, np.zeros((), value.dtype) if zero is None else zero.value)


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("seed", range(3))
def test_removing_is_zeroing(name: str, seed: int) -> None:
    case = BY_NAME[name]
    masks = random_masks(case, seed, exact=True)
    small = run(shrink(case.analysis, masks).proto(), compressed(case.analysis, masks, case.feeds))
    old = compressed(case.analysis, masks, run(*zero_removed(case, masks)))
    for output, expected in old.items():
        assert small[output].shape == expected.shape
        if case.exact:
            np.testing.assert_allclose(small[output], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BY_NAME)
def test_coupled_axes_shrink_to_the_right_sizes(name: str) -> None:
    case = BY_NAME[name]
    masks = random_masks(case, 7, exact=False)
    small = run(shrink(case.analysis, masks).proto(), compressed(case.analysis, masks, case.feeds))
    old = compressed(case.analysis, masks, case.values)
    assert {n: v.shape for n, v in small.items()} == {n: v.shape for n, v in old.items()}
