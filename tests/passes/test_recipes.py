"""Recipes: every one reads, names passes that exist, and reaches its budget on a small transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import pruneopt as po
from pruneopt.cli import main
from pruneopt.errors import PruneoptError, UsageError
from pruneopt.model import Model
from pruneopt.passes.recipes import find_recipe, recipe_passes, recipes
from pruneopt.passes.recipes.recipe import Recipe
from pruneopt.passes.spec import parse_passes
from tests import models

pytestmark = pytest.mark.usefixtures("own_cache")


LEARNED = ("llm-pruner", "loraprune", "nvit", "sheared-llama", "spp", "vit-slim", "x-pruner")
STEPS = {
    "loraprune": "{steps=10}",
    "sheared-llama": "{steps=10}",
    "spp": "{steps=20}",
    "vit-slim": "{steps=10}",
    "x-pruner": "{steps=20}",
}


@pytest.mark.parametrize("recipe", recipes(), ids=lambda r: r.name)
def test_every_recipe_names_its_source_and_passes(recipe: Recipe) -> None:
    assert parse_passes(recipe.text({}))
    assert "arXiv" in recipe.source or "20" in recipe.source


def test_the_learned_ones_are_there() -> None:
    assert set(LEARNED) < {r.name for r in recipes()}


def classifier(layers: int = 2) -> Model:
    """The small transformer with three classes: the mean over positions, and a linear map."""
    proto = models.transformer(layers)
    graph = proto.graph
    graph.node.append(helper.make_node("ReduceMean", ["y", "positions"], ["mean"], keepdims=0))
    graph.node.append(helper.make_node("MatMul", ["mean", "classes"], ["logits"]))
    weight = np.random.default_rng(1).standard_normal((7, 3)).astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(weight, "classes"))
    graph.initializer.append(numpy_helper.from_array(np.array([1]), "positions"))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3]))
    return models.loaded(proto)


@pytest.mark.parametrize("name", LEARNED)
def test_learned_recipes_reach_their_budget(name: str) -> None:
    pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((8, 6, 24)).astype(np.float32)
    batches: list[dict[str, Any]] = [{"x": x, "kind": np.arange(8) % 2}]
    text = recipe_passes(name + STEPS.get(name, ""), {"macs": 0.6})
    report = po.prune(classifier(), passes=text, calib=batches, timed=False).report
    share = report["output"]["macs"] / report["input"]["macs"]
    assert 0.594 <= share <= 0.6
    assert report["equivalence"]["max_rel_error"] < 1e-5


@pytest.mark.parametrize("name", ["flap", "wanda-sp"])
def test_calibrated_recipes_reach_their_budget(name: str) -> None:
    batches = [{"x": np.random.default_rng(0).standard_normal((8, 6, 24)).astype(np.float32)}]
    text = recipe_passes(name, {"macs": 0.6})
    report = po.prune(models.loaded(models.transformer()), passes=text, calib=batches, timed=False).report
    assert 0.594 <= report["output"]["macs"] / report["input"]["macs"] <= 0.6


# Of the others, what their own default budget leaves: (figure, at least, at most).
OTHERS = {
    "ria": ("zeros", 0.495, 0.505),
    "sparsegpt": ("zeros", 0.495, 0.505),
    "wanda": ("zeros", 0.495, 0.505),
    "slicegpt": ("params", 0.72, 0.75),  # one width, of 64: an entry is 2 % of it
    "shortgpt": ("params", 0.75, 0.77),  # three of four layers, and the ends
    "tome": ("macs", 0.5, 0.8),  # half of the tokens at the end
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_recipes_do_what_they_say(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((8, 16, 24)).astype(np.float32)
    model = classifier(4 if name == "shortgpt" else 2)
    report = po.prune(model, passes=recipe_passes(name, {}), calib=[{"x": x}, {"x": -x}], timed=False).report
    figure, least, most = OTHERS[name]
    found = {key: report["output"][key] / report["input"][key] for key in ("macs", "params")}
    found["zeros"] = next((p["sparsity"] for p in report["passes"] if "sparsity" in p), 0.0)
    assert least <= found[figure] <= most


def test_every_recipe_is_run_here() -> None:
    assert {r.name for r in recipes()} == {*LEARNED, *OTHERS, "flap", "wanda-sp"}


def test_the_budget_takes_the_place_of_the_default() -> None:
    assert recipe_passes("wanda", {}) == "sparsify{method=wanda, sparsity=0.5}"
    assert (
        recipe_passes("wanda", {"sparsity": None, "pattern": "2:4"}) == "sparsify{method=wanda, pattern=2:4}"
    )
    text = recipe_passes("spp{path=a.npz}", {"macs": 0.5})
    assert text == "unmerge, learn{method=spp, macs=0.5, path=a.npz}, repair, merge"


def test_a_budget_that_the_pass_does_not_take_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'sparsify' has no option 'macs=0\.5'"):
        parse_passes(recipe_passes("wanda", {"macs": 0.5}))


def test_unknown_recipes_name_those_that_ship() -> None:
    with pytest.raises(UsageError, match=r"no recipe 'nosuch'; choose from .*spp"):
        find_recipe("nosuch")


GOOD = "title: t\nsource: s\nneeds: data\npasses: width{BUDGET}\nbudget: macs=0.5\n"
BAD = {
    "no colon": (GOOD + "hello\n", "line 6"),
    "an unknown key": (GOOD + "author: me\n", "no 'author'"),
    "a missing key": (GOOD.replace("source: s\n", ""), "lacks 'source'"),
    "an unknown need": (GOOD.replace("data", "luck"), "needs is 'luck'"),
}


@pytest.mark.parametrize(("text", "said"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_told_in_a_sentence(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(PruneoptError, match=said):
        find_recipe(str(tmp_path / "r.yaml"))


def test_the_command_lists_shows_and_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = models.save(models.convnet(), tmp_path)
    (tmp_path / "own.yaml").write_text(GOOD + "differs: >\n  not\n  at all\n")
    assert main(["recipes"]) == 0
    assert "spp " in capsys.readouterr().out
    assert main(["recipes", str(tmp_path / "own.yaml")]) == 0
    assert "not at all" in capsys.readouterr().out
    out = tmp_path / "out.onnx"
    assert (
        main([str(source), "-o", str(out), "--recipe", str(tmp_path / "own.yaml"), "--macs", "0.7", "-q"])
        == 0
    )
    assert out.exists()
    assert main([str(source), "-o", str(out), "--recipe", "spp", "--passes", "width{macs=0.5}", "-q"]) == 2
