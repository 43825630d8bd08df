"""What a user does with `to_torch`: run, train, copy, save, move, and go back to ONNX."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")

import pruneopt as po  # noqa: E402
from pruneopt.api import make_context  # noqa: E402
from pruneopt.backends.torch.names import Paths, identifier, unique  # noqa: E402
from pruneopt.backends.torch.origin import node_of, origin_of  # noqa: E402
from pruneopt.backends.torch.values import to_array, to_tensor  # noqa: E402
from pruneopt.errors import PruneoptError, UsageError  # noqa: E402
from pruneopt.model import Model, constants, values  # noqa: E402
from tests.models import Builder, convnet, transformer  # noqa: E402


@pytest.fixture(params=[convnet, transformer])
def model(request: pytest.FixtureRequest) -> Model:
    return Model.from_proto(request.param())


def outputs(module: Any, feeds: Any) -> list[Any]:
    """What a module returns for NumPy feeds, as arrays."""
    found = module(*[to_tensor(value) for value in feeds.values()])
    return [t.detach().numpy() for t in (found if isinstance(found, tuple) else (found,))]


def test_equals_the_runtime_at_two_sizes(model: Model) -> None:
    context = make_context(model)
    module = model.to_torch()
    for feeds in context.feeds:
        expected = context.backend.session(model).run(feeds).values()
        for a, b in zip(expected, outputs(module, feeds), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter(model: Model) -> None:
    module = model.to_torch()
    found = module(*[to_tensor(value) for value in make_context(model).feeds[0].values()])
    found.square().sum().backward()
    grads = {name: p.grad for name, p in module.named_parameters()}
    assert grads
    assert all(g is not None and torch.isfinite(g).all() and g.abs().sum() > 0 for g in grads.values())


def test_the_way_back_is_exact(model: Model) -> None:
    assert po.from_torch(model.to_torch()).proto() == model.proto()


def test_one_changed_weight_changes_that_weight_alone(model: Model) -> None:
    module = model.to_torch()
    path, parameter = next(iter(module.named_parameters()))
    with torch.no_grad():
        parameter.reshape(-1)[0] += 1.0
    back = po.from_torch(module)
    before = {c.name: values(c).tobytes() for c in constants(model.graph)}
    after = {c.name: values(c).tobytes() for c in constants(back.graph)}
    assert {name for name in before if before[name] != after[name]} == {origin_of(module).weights[path].name}


def test_a_trained_module_equals_in_the_runtime(model: Model) -> None:
    context = make_context(model)
    module, feeds = model.to_torch(), context.feeds[0]
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-2)
    before = outputs(module, feeds)[0]
    module(*[to_tensor(value) for value in feeds.values()]).square().mean().backward()
    optimizer.step()
    after = outputs(module, feeds)[0]
    found = next(iter(context.backend.session(po.from_torch(module)).run(feeds).values()))
    assert np.abs(after - before).max() > 1e-6
    np.testing.assert_allclose(found, after, rtol=1e-4, atol=1e-5)


def test_inputs_by_name() -> None:
    b = Builder()
    y = b.node("Sub", "a:0", "class", outputs=["y"])
    module = Model.from_proto(b.model({"a:0": [2], "class": [2]}, {y: [2]})).to_torch()
    assert origin_of(module).inputs == {"a:0": "a_0", "class": "_class"}
    assert module(_class=torch.ones(2), a_0=torch.zeros(2)).tolist() == [-1.0, -1.0]


def test_several_outputs_are_a_tuple_in_order() -> None:
    b = Builder()
    b.node("Relu", "x", outputs=["a"])
    b.node("Neg", "x", outputs=["b"])
    module = Model.from_proto(b.model({"x": [2]}, {"b": [2], "a": [2]})).to_torch()
    first, second = module(torch.tensor([1.0, -1.0]))
    assert (first.tolist(), second.tolist()) == ([-1.0, 1.0], [1.0, 0.0])


def test_hidden_tensors_can_be_returned(model: Model) -> None:
    name = model.graph.nodes[1].outputs[0].name
    feeds = make_context(model).feeds[0]
    hidden = outputs(model.to_torch(outputs=[name]), feeds)[0]
    expected = make_context(model).backend.session(model, [name]).run(feeds)[name]
    np.testing.assert_allclose(hidden, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="no tensor 'nothing'"):
        model.to_torch(outputs=["nothing"])


def test_nodes_are_found_by_the_models_names(model: Model) -> None:
    module = model.to_torch()
    tensor = model.graph.nodes[0].outputs[0].name
    assert node_of(module, tensor).meta["tensor"] == tensor
    with pytest.raises(UsageError, match="no tensor 'nothing'"):
        node_of(module, "nothing")


def test_a_weight_used_twice_is_one_parameter() -> None:
    b = Builder()
    w = b.weight(4, 4, name="tied")
    y = b.node("MatMul", b.node("MatMul", "x", w), w)
    module = Model.from_proto(b.model({"x": ["n", 4]}, {y: ["n", 4]})).to_torch()
    assert [name for name, _ in module.named_parameters()] == ["tied"]


def test_scalars_and_statistics_do_not_learn_unless_asked_to() -> None:
    b = Builder()
    vectors = [b.weight(3, name=f"bn.{part}") for part in ("weight", "bias", "mean", "var")]
    scale = b.value(2.0, np.float32)
    y = b.node("Mul", b.node("BatchNormalization", "x", *vectors), scale)
    model = Model.from_proto(b.model({"x": ["n", 3]}, {y: ["n", 3]}))
    learned = {name for name, _ in model.to_torch().named_parameters()}
    assert learned == {"bn.weight", "bn.bias"}
    assert {name for name, _ in model.to_torch().named_buffers()} == {"bn.mean", "bn.var", scale}
    assert scale in dict(model.to_torch(trainable=[scale]).named_parameters())


def batchnorm() -> Model:
    b = Builder()
    for name, value in (("s", 1.0), ("b", 0.0), ("mean", 0.0), ("var", 1.0)):
        b.weights.append(numpy_helper.from_array(np.full(3, value, np.float32), name))
    y = b.node("BatchNormalization", "x", "s", "b", "mean", "var", momentum=0.75)
    return Model.from_proto(b.model({"x": ["n", 3]}, {y: ["n", 3]}))


def test_training_follows_the_batch_and_goes_back() -> None:
    module = batchnorm().to_torch()
    x = torch.randn(16, 3) * 3 + 5
    assert torch.allclose(module(x), x / (1 + 1e-5) ** 0.5)
    found = module.train()(x)
    assert torch.allclose(found.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(module.mean, 0.25 * x.mean(0))
    trained = {c.name: values(c) for c in constants(po.from_torch(module).graph)}
    np.testing.assert_allclose(trained["mean"], 0.25 * x.mean(0).numpy(), rtol=1e-6)


def test_copies_are_independent_and_go_back(model: Model) -> None:
    module = model.to_torch()
    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert po.from_torch(module).proto() == model.proto()
    assert not any(
        values(c).any()
        for c in constants(po.from_torch(other).graph)
        if c.name in dict(module.named_parameters())
    )


def test_the_state_is_saved_and_loaded(model: Model) -> None:
    module, other = model.to_torch(), model.to_torch()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    feeds = make_context(model).feeds[0]
    np.testing.assert_array_equal(outputs(module, feeds)[0], outputs(other, feeds)[0])


def test_a_wider_type_runs_and_goes_back_to_the_models_own(model: Model) -> None:
    feeds = make_context(model).feeds[0]
    plain = outputs(model.to_torch(), feeds)[0]
    module = model.to_torch().to(torch.float64)
    wide = {n: v.astype(np.float64) if v.dtype == np.float32 else v for n, v in feeds.items()}
    np.testing.assert_allclose(outputs(module, wide)[0], plain, rtol=1e-4, atol=1e-5)
    assert po.from_torch(module).proto() == model.proto()


def test_half_precision_runs(model: Model) -> None:
    module = model.to_torch().to(torch.bfloat16)
    feeds = make_context(model).feeds[0]
    inputs = [to_tensor(v).bfloat16() if v.dtype == np.float32 else to_tensor(v) for v in feeds.values()]
    assert torch.isfinite(module(*inputs).float()).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_is_the_same(model: Model) -> None:
    feeds = make_context(model).feeds[0]
    plain = outputs(model.to_torch(), feeds)[0]
    module = model.to_torch().cuda()
    found = module(*[to_tensor(v).cuda() for v in feeds.values()])
    np.testing.assert_allclose(found.detach().cpu().numpy(), plain, rtol=1e-2, atol=1e-3)


def test_ops_that_are_not_known_are_named() -> None:
    node = helper.make_node("NonMaxSuppression", ["x", "s"], ["y"], name="nms")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4, 4]) for n in ("x", "s")]
    out = helper.make_tensor_value_info("y", TensorProto.INT64, ["n", 3])
    proto = helper.make_model(
        helper.make_graph([node], "g", ends, [out]), opset_imports=[helper.make_opsetid("", 17)]
    )
    with pytest.raises(PruneoptError, match="does not know NonMaxSuppression \\(node 'nms'\\)"):
        Model.from_proto(proto).to_torch()


def test_a_weight_of_another_shape_cannot_go_back(model: Model) -> None:
    module = model.to_torch()
    path, parameter = next(iter(module.named_parameters()))
    with torch.no_grad():
        parameter.set_(torch.zeros(1, 2, 3))
    with pytest.raises(PruneoptError, match=f"weight '{path}' has shape"):
        po.from_torch(module)


def branches() -> onnx.ModelProto:
    """`if sum(x) > 0: x @ w else: x - b`, and a loop that doubles three times."""
    out = [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)]
    then = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["r"])], "then", [], out)
    other = helper.make_graph([helper.make_node("Sub", ["x", "b"], ["r"])], "else", [], out)
    step = [
        helper.make_node("Add", ["h", "h"], ["h2"]),
        helper.make_node("ReduceSum", ["h2"], ["total"], keepdims=0),
        helper.make_node("Identity", ["go"], ["go2"]),
    ]
    kinds = {"i": TensorProto.INT64, "go": TensorProto.BOOL, "go2": TensorProto.BOOL}
    ends = {
        name: helper.make_tensor_value_info(
            name, kinds.get(name, TensorProto.FLOAT), None if name[0] == "h" else []
        )
        for name in ("i", "go", "h", "go2", "h2", "total")
    }
    body = helper.make_graph(
        step, "body", [ends[n] for n in ("i", "go", "h")], [ends[n] for n in ("go2", "h2", "total")]
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
        helper.make_node("Loop", ["count", "", "y"], ["z", "totals"], body=body),
    ]
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((4, 4), np.float32), "w"),
        numpy_helper.from_array(rng.standard_normal(4, np.float32), "b"),
        numpy_helper.from_array(np.float32(0), "zero"), numpy_helper.from_array(np.int64(3), "count"),
    ]  # fmt: skip
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])]
    outs = [
        helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 4]),
        helper.make_tensor_value_info("totals", TensorProto.FLOAT, [3]),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("sign", "learns"), [(1.0, "w"), (-1.0, "b")])
def test_bodies_compute_and_learn(sign: float, learns: str) -> None:
    model = Model.from_proto(branches())
    x = np.full((2, 4), sign, np.float32)
    module = copy.deepcopy(model.to_torch())
    z, totals = module(torch.from_numpy(x))
    session = make_context(model).backend.session(model).run({"x": x})
    np.testing.assert_allclose(z.detach().numpy(), session["z"], rtol=1e-5)
    np.testing.assert_allclose(totals.detach().numpy(), session["totals"], rtol=1e-5)
    z.sum().backward()
    assert {n for n, p in module.named_parameters() if p.grad is not None} == {learns}
    assert po.from_torch(module).proto() == model.proto()


def test_paths_and_identifiers() -> None:
    paths = Paths()
    assert paths.path("encoder.layer.0.weight") == "encoder.layer.0.weight"
    assert paths.path("/model/conv:0") == "_model_conv_0"
    assert paths.path("_model_conv_0") == "_model_conv_0_1"
    assert paths.path("encoder.layer") == "encoder.layer_1"  # a folder has that name
    assert paths.path("encoder.layer.0.weight.T") == "encoder.layer.0.weight_T"
    assert (identifier("1a"), identifier("class"), identifier("x.y")) == ("_1a", "_class", "x_y")
    taken: set[str] = set()
    assert [unique("a", taken) for _ in range(3)] == ["a", "a_1", "a_2"]


@pytest.mark.parametrize(
    "kind", ["float32", "float16", "bfloat16", "float8_e4m3fn", "int64", "bool", "uint8"]
)
def test_values_survive_the_way_there_and_back(kind: str) -> None:
    import ml_dtypes

    dtype = np.dtype(getattr(ml_dtypes, kind, None) or kind)
    array = np.array([[0, 1, 3], [1, 0, 2]]).astype(dtype)
    back = to_array(to_tensor(array))
    assert back.dtype == dtype
    assert back.tobytes() == array.tobytes()


def test_statistics_of_the_batch_are_part_of_the_gradient() -> None:
    """BatchNormalization in ONNX's own training mode, as weight standardisation is exported."""
    b = Builder()
    for name, value in (("s", 1.0), ("b", 0.0), ("mean", 0.0), ("var", 1.0)):
        b.weights.append(numpy_helper.from_array(np.full(3, value, np.float32), name))
    outputs_ = ["y", "m", "v"]
    b.node("BatchNormalization", "x", "s", "b", "mean", "var", outputs=outputs_, training_mode=1)
    module = Model.from_proto(b.model({"x": [8, 3]}, {"y": [8, 3]})).to_torch()
    x = torch.randn(8, 3, requires_grad=True)
    weights = torch.randn(8, 3)
    (module(x) * weights).sum().backward()
    z = x.detach().clone().requires_grad_()
    (torch.nn.functional.batch_norm(z, None, None, training=True) * weights).sum().backward()
    torch.testing.assert_close(x.grad, z.grad, rtol=1e-4, atol=1e-5)
