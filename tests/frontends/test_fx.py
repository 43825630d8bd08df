# mypy: disallow-subclassing-any=False
"""PyTorch modules become models, and every learnable tensor keeps its name."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import pruneopt as po  # noqa: E402
from pruneopt.api import make_context  # noqa: E402
from pruneopt.cli import main  # noqa: E402
from pruneopt.errors import PruneoptError, UsageError  # noqa: E402
from pruneopt.model import Model  # noqa: E402
from tests.frontends.modules import MODULES, Example, Module  # noqa: E402


def exported(name: str) -> tuple[Any, Example, Model]:
    """A module, its example and its model."""
    torch.manual_seed(0)
    module, example = MODULES[name]()
    return module, example, po.from_torch(module, example.inputs, dynamic_shapes=example.dynamic)


# Exporting takes seconds: the default suite looks at three kinds, `make slow` at all.
QUICK = {"mlp", "encoder", "convnet"}
NAMES = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MODULES]


@pytest.mark.parametrize("name", NAMES)
def test_names_values_and_results_are_the_modules(name: str) -> None:
    module, example, model = exported(name)
    back = model.to_torch()
    ours, theirs = dict(back.named_parameters()), dict(module.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs)
    with torch.no_grad():
        torch.testing.assert_close(back(*example.inputs), module(*example.inputs), rtol=1e-4, atol=1e-5)
    module.load_state_dict(back.state_dict(), strict=False)


@pytest.mark.parametrize("name", NAMES)
def test_pruned_trained_and_exported_again(name: str) -> None:
    _, _, model = exported(name)
    result = po.prune(model, macs=0.7, timed=False)
    assert not any(group["name"].startswith("val_") for group in result.report["groups"])
    module = result.model.to_torch()
    assert not any(name.startswith("val_") for name, _ in module.named_parameters())
    context = make_context(result.model)
    inputs = [torch.from_numpy(v) for v in context.feeds[0].values()]
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-2)
    module(*inputs).square().mean().backward()
    optimizer.step()
    expected = module(*inputs).detach().numpy()
    session = context.backend.session(po.from_torch(module))
    found = next(iter(session.run(context.feeds[0]).values()))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_transposed_weights_are_called_after_theirs() -> None:
    _, _, model = exported("mlp")
    names = {tensor.name for node in model.graph.nodes for tensor in node.inputs}
    assert {"blocks.0.weight", "blocks.0.bias"} <= names or {"blocks.0.weight.T", "blocks.0.bias"} <= names


def test_a_learned_scalar_stays_one_and_a_number_does_not_become_one() -> None:
    class Scaled(Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor(3.0))

        def forward(self, x: Any) -> Any:
            return x * self.gain + 0.5

    model = po.from_torch(Scaled(), (torch.ones(2),))
    assert [name for name, _ in model.to_torch().named_parameters()] == ["gain"]


def test_tied_tensors_have_the_first_of_their_names() -> None:
    class Tied(Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(11, 8)
            self.head = torch.nn.Linear(8, 11, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: Any) -> Any:
            return self.head(self.embed(ids))

    model = po.from_torch(Tied(), (torch.zeros(2, 3, dtype=torch.int64),))
    assert [name for name, _ in model.to_torch().named_parameters()] == ["embed.weight"]


def test_the_modes_of_a_module_stay() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
    module[0].eval()
    po.from_torch(module, (torch.ones(1, 4),))
    assert [part.training for part in module.modules()] == [True, False, True]


def test_an_archive_is_pruned_from_the_command_line(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, example = MODULES["mlp"]()
    program = torch.export.export(module, example.inputs, dynamic_shapes=example.dynamic)
    torch.export.save(program, tmp_path / "model.pt2")
    assert main([str(tmp_path / "model.pt2"), "-o", str(tmp_path / "out.onnx"), "--macs", "0.5", "-q"]) == 0
    names = {c.name for c in po.load(tmp_path / "out.onnx").graph.tensors().values()}
    assert any(name.startswith("blocks.0.weight") for name in names)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.ckpt", "weights.bin"])
def test_pickles_are_refused_unread(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / name)
    with pytest.raises(PruneoptError, match=r"runs code when it is read.*torch\.export\.save"):
        po.load(tmp_path / name)
    assert main([str(tmp_path / name), "-o", str(tmp_path / "out.onnx"), "--macs", "0.5"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_what_is_no_archive_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "a.pt2").write_bytes(b"nothing")
    with pytest.raises(PruneoptError, match=r"is not a torch\.export archive"):
        po.load(tmp_path / "a.pt2")
    torch.save({"a": torch.ones(1)}, tmp_path / "b.pt2")  # a zip file, but with a pickle in it
    with pytest.raises(PruneoptError, match=r"cannot be read as a torch\.export archive"):
        po.load(tmp_path / "b.pt2")


class Evil:
    """What a pickle can do: it writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("where", ["weight", "constant"])
def test_pickles_in_archives_are_not_read(tmp_path: Path, where: str) -> None:
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "good.pt2")
    pickled = pickle.dumps(Evil(tmp_path / "ran"))
    with zipfile.ZipFile(tmp_path / "good.pt2") as good, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as bad:
        for name in good.namelist():
            data = good.read(name)
            if name.endswith("weights_config.json" if where == "weight" else "constants_config.json"):
                config = json.loads(data)
                entry = {"path_name": "weight_0" if where == "weight" else "opaque_obj_0", "is_param": False}
                config["config"] |= {"weight": entry | {"use_pickle": True, "tensor_meta": None}}
                data = json.dumps(config).encode()
            bad.writestr(name, pickled if name.endswith("weights/weight_0") else data)
        if where == "constant":
            bad.writestr(f"{good.namelist()[0].split('/')[0]}/data/constants/opaque_obj_0", pickled)
    with pytest.raises(PruneoptError, match=r"bad\.pt2"):
        po.load(tmp_path / "bad.pt2")
    assert not (tmp_path / "ran").exists()


def test_requests_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="needs example inputs"):
        po.from_torch(torch.nn.Linear(2, 2))
    with pytest.raises(UsageError, match="not int"):
        po.from_torch(3)


def test_a_module_that_cannot_be_exported_is_an_error_of_one_sentence() -> None:
    class Branches(Module):
        def forward(self, x: Any) -> Any:
            return x if x.sum() > 0 else -x

    with pytest.raises(PruneoptError, match="PyTorch could not export the module: ") as caught:
        po.from_torch(Branches(), (torch.ones(2),))
    assert "\n" not in str(caught.value)


class Biased(Module):
    """Attention with a learned bias of relative places, as T5 and Swin have it: heads are joined by a view."""

    def __init__(self) -> None:
        super().__init__()
        self.places = torch.nn.Embedding(16, 4)
        self.qkv, self.out = torch.nn.Linear(32, 96), torch.nn.Linear(32, 32)

    def forward(self, x: Any) -> Any:
        """`b s d -> b s d`."""
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, 4, 8).permute(2, 0, 3, 1, 4)
        at = torch.arange(length)
        bias = self.places((at[:, None] - at).abs().clamp(max=15)).permute(2, 0, 1)[None]
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, bias.expand(batch, -1, -1, -1))
        return self.out(mixed.transpose(1, 2).contiguous().reshape(batch, length, -1).contiguous())


def test_attention_whose_heads_are_joined_by_a_view() -> None:
    module, x = Biased().eval(), torch.randn(2, 7, 32)
    batch = {0: torch.export.Dim("batch")}
    model = po.from_torch(module, (x,), dynamic_shapes=(batch,))
    assert dict(model.to_torch().named_parameters()).keys() == dict(module.named_parameters()).keys()
    feeds = {model.inputs[0].name: torch.cat([x, x, x]).numpy()}
    (found,) = make_context(model).session(model).run(feeds).values()
    torch.testing.assert_close(torch.from_numpy(found), module(torch.cat([x, x, x])), rtol=1e-4, atol=1e-5)
