"""Gates in a network: what they multiply, what they become, and the samples that they meet."""

from __future__ import annotations

import numpy as np
import pytest

from pruneopt.analysis.axes import atoms
from pruneopt.analysis.groups import find_groups
from pruneopt.analysis.infer import analyse
from pruneopt.api import make_context
from pruneopt.errors import UsageError
from pruneopt.passes.learning.labels import by_class
from pruneopt.passes.learning.masks.folding import fold
from pruneopt.passes.learning.masks.gates import Gated, gate_of, gateable
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.rewriting.shrink import shrink
from tests import models
from tests.passes.learning.chain import chain, rows, studied

torch = pytest.importorskip("torch")


def test_gates_of_a_product_are_the_kronecker_product() -> None:
    analysis, groups = studied(models.loaded(models.transformer(1)))
    axis = next(u.axis for u in analysis.contractions if len({a for a in atoms(u.axis) if a.static}) == 2)
    first, second = (a for a in atoms(axis) if a.static)
    gates = {
        first: torch.arange(first.size[0], dtype=torch.float32),
        second: torch.arange(second.size[0], dtype=torch.float32),
    }
    assert torch.equal(gate_of(axis, gates), torch.kron(gates[first], gates[second]))
    assert groups


@pytest.mark.parametrize("build", [models.convnet, models.transformer, models.fused_attention])
def test_gates_of_zero_are_the_masked_original(build: object) -> None:
    model = models.loaded(build())  # type: ignore[operator]
    context = make_context(model)
    analysis = analyse(model, context.observation(model))
    groups = [g for g in find_groups(analysis) if gateable(g, analysis)]
    rng = np.random.default_rng(3)
    masks = {g.atom: rng.random(g.size) < 0.6 for g in groups}
    for mask in masks.values():
        mask[0] = True
    reference, feeds = next(iter(Masked(analysis, masks).references()))
    wanted = context.session(reference).run(feeds)["y"]
    gates = {atom: torch.from_numpy(mask.astype(np.float32)) for atom, mask in masks.items()}
    found = Gated(analysis, list(masks)).run(feeds, gates)["y"].detach().numpy()
    assert groups
    assert np.abs(found - wanted).max() < 1e-4 * max(1.0, np.abs(wanted).max())


def test_folded_gates_do_what_gates_did() -> None:
    analysis, (group, *_) = studied(chain())
    mask = np.array([True, False, True, False, True, False, True, False])
    values = {group.atom: np.linspace(0.2, 0.9, 8)}
    small = shrink(analysis, {group.atom: mask})
    folded = fold(small, analysis, {group.atom: mask}, values)
    feeds = rows(5)[0]
    gates = {group.atom: torch.from_numpy((values[group.atom] * mask).astype(np.float32))}
    wanted = Gated(analysis, [group.atom]).run(feeds, gates)["y"].detach().numpy()
    found = make_context(folded).session(folded).run(feeds)["y"]
    assert np.allclose(found, wanted, atol=1e-6)
    assert not np.allclose(make_context(small).session(small).run(feeds)["y"], wanted, atol=1e-2)


def test_samples_come_by_class() -> None:
    model = chain()
    batches = [{"x": np.full((3, 8), i, np.float32), "kind": np.array([0, 2, 0])} for i in range(2)]
    found = by_class(model, batches, 3)
    assert [(label, batch["x"][:, 0].tolist()) for label, batch in found] == [
        (0, [0, 0, 1]),
        (0, [1]),
        (2, [0, 1]),
    ]
    assert found[1][1]["kind"].tolist() == [0]
    with pytest.raises(UsageError, match="class of every row"):
        by_class(model, rows(), 3)
