"""Structures that real networks are made of: what may go, and that taking it out is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from pruneopt.analysis.groups import Group, find_groups
from pruneopt.analysis.infer import Analysis, analyse
from pruneopt.analysis.masks import Mask
from pruneopt.backends.ort import OnnxRuntime
from pruneopt.backends.session import Session
from pruneopt.model import Model
from pruneopt.passes.context import Context
from pruneopt.passes.distance import distance
from pruneopt.passes.rewriting.masked import Masked
from pruneopt.passes.rewriting.shrink import shrink


class Net:
    """Builds a graph node by node; tensors are names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def w(self, *shape: int) -> str:
        """A weight."""
        return self.c(self.random.standard_normal(shape).astype(np.float32) / np.float32(shape[-1] ** 0.5))

    def c(self, value: Any) -> str:
        """Any constant; integers are int64."""
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def i(self, *values: int) -> str:
        """A vector of integers."""
        return self.c(np.array(values, np.int64))

    def __call__(self, op: str, *inputs: str, outputs: int = 1, **attrs: Any) -> Any:
        """A node; its output's name, or names."""
        outs = [f"{op}{len(self.nodes)}.{n}" for n in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, outs, name=outs[0], **attrs))
        return outs[0] if outputs == 1 else outs

    def linear(self, data: str, inner: int, outer: int) -> str:
        """MatMul and Add."""
        return str(self("Add", self("MatMul", data, self.w(inner, outer)), self.w(outer)))

    def model(self, end: str, shape: tuple[int | str, ...], kind: int = onnx.TensorProto.FLOAT) -> Model:
        """The model from input `x` of this shape to `end`."""
        inputs = [helper.make_tensor_value_info("x", kind, shape)]
        outputs = [helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, [None] * len(shape))]
        graph = helper.make_graph(self.nodes, "net", inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return Model.from_proto(proto)


def analysed(model: Model, *sizes: tuple[int, ...], high: int = 0) -> Analysis:
    """Observed at these sizes of input `x`; integers below `high` where that is given."""
    random = np.random.default_rng(1)
    feeds: list[dict[str, Any]] = [
        {"x": random.integers(0, high, s) if high else random.standard_normal(s).astype(np.float32)}
        for s in sizes
    ]
    return analyse(model, Context(OnnxRuntime(), feeds).observation(model))


def sizes(groups: list[Group]) -> list[tuple[int, bool]]:
    """Size of each group and whether a statistic runs over it."""
    return sorted((g.size, bool(g.coupled)) for g in groups)


def check(analysis: Analysis, seed: int = 0) -> None:
    """A random half of every group goes; the rest equals the masked original."""
    random = np.random.default_rng(seed)
    masks: dict[Any, Mask] = {}
    for group in find_groups(analysis):
        mask = np.zeros(group.size, bool)
        mask[random.permutation(group.size)[: max(group.least, group.size // 2)]] = True
        masks[group.atom] = mask
    small = Session(shrink(analysis, masks), optimize=False)
    for reference, feeds in Masked(analysis, masks).references():
        expected, found = Session(reference, optimize=False).run(dict(feeds)), small.run(dict(feeds))
        assert max(distance(expected[n], found[n]) for n in expected) < 1e-5


def dense_experts(net: Net) -> str:
    gate = net("Softmax", net.linear("x", 8, 4))
    hidden = net("Relu", net("MatMul", net("Unsqueeze", "x", net.i(1)), net.w(4, 8, 12)))
    each = net("MatMul", hidden, net.w(4, 12, 8))
    scale = net("Unsqueeze", net("Transpose", gate, perm=[0, 2, 1]), net.i(3))
    return str(net("ReduceSum", net("Mul", each, scale), net.i(1), keepdims=0))


def einsum_experts(net: Net) -> str:
    gate = net("Softmax", net.linear("x", 8, 4))
    hidden = net("Relu", net("Einsum", "x", net.w(4, 8, 12), equation="bnd,edh->bneh"))
    return str(net("Einsum", hidden, net.w(4, 12, 8), gate, equation="bneh,ehd,bne->bnd"))


def picked_experts(net: Net) -> str:
    """The best two experts' weights are gathered, as mixtures for single tokens do."""
    gate, chosen = net("TopK", net("Softmax", net.linear("x", 8, 4)), net.i(2), outputs=2)
    data = net("Unsqueeze", "x", net.i(2, 3))  # b n 1 1 d
    hidden = net(
        "Relu",
        net("MatMul", net("Reshape", data, net.i(0, 0, 1, 1, 8)), net("Gather", net.w(4, 8, 12), chosen)),
    )
    each = net("MatMul", hidden, net("Gather", net.w(4, 12, 8), chosen))
    weighted = net("Mul", net("Squeeze", each, net.i(3)), net("Unsqueeze", gate, net.i(3)))
    return str(net("ReduceSum", weighted, net.i(2), keepdims=0))


def picked_by_gather_nd(net: Net) -> str:
    """The same for one expert each, as the exporter of traced programs writes a lookup of rows."""
    chosen = net("ArgMax", net.linear("x", 8, 4), axis=2)
    rows = net("Unsqueeze", net("Reshape", chosen, net.i(-1)), net.i(-1))
    data = net("Reshape", "x", net.i(-1, 1, 8))
    hidden = net("Relu", net("MatMul", data, net("GatherND", net.w(4, 8, 12), rows)))
    return str(net("Reshape", net("MatMul", hidden, net("GatherND", net.w(4, 12, 8), rows)), net.i(-1, 5, 8)))


def scattered_gate(net: Net) -> str:
    """The best two of five experts get their gates written into zeros; the others' outputs count nothing."""
    gate, chosen = net("TopK", net("Softmax", net.linear("x", 8, 5)), net.i(2), outputs=2)
    zeros = net("ConstantOfShape", net("Concat", net("Shape", "x", end=2), net.i(5), axis=0))
    written = net("ScatterElements", zeros, chosen, gate, axis=2)
    hidden = net("Relu", net("Einsum", "x", net.w(5, 8, 12), equation="bnd,edh->bneh"))
    return str(net("Einsum", hidden, net.w(5, 12, 8), written, equation="bneh,ehd,bne->bnd"))


def one_hot_gate(net: Net) -> str:
    """The best expert, as a row of ones and zeros."""
    chosen = net("ArgMax", net.linear("x", 8, 5), axis=2, keepdims=0)
    row = net("OneHot", chosen, net.i(5), net.c(np.array([0, 1], np.float32)))
    hidden = net("Relu", net("Einsum", "x", net.w(5, 8, 12), equation="bnd,edh->bneh"))
    return str(net("Einsum", hidden, net.w(5, 12, 8), row, equation="bneh,ehd,bne->bnd"))


def counted_experts(net: Net) -> str:
    """Where positions are used as numbers, nothing may go."""
    chosen = net("ArgMax", net.linear("x", 8, 5), axis=2)
    return str(net("Add", "x", net("Cast", chosen, to=1)))


def shared_keys(net: Net) -> str:
    """Two heads of keys for four of queries, repeated by Expand."""
    q = net("Transpose", net("Reshape", net.linear("x", 8, 24), net.i(0, 0, 4, 6)), perm=[0, 2, 1, 3])

    def heads() -> str:
        one = net("Transpose", net("Reshape", net.linear("x", 8, 12), net.i(0, 0, 2, 6)), perm=[0, 2, 1, 3])
        many = net("Expand", net("Unsqueeze", one, net.i(2)), net.i(1, 2, 2, 5, 6))
        return str(net("Reshape", many, net.i(0, 4, 5, 6)))

    k, v = heads(), heads()
    scores = net("Softmax", net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2])))
    out = net("Reshape", net("Transpose", net("MatMul", scores, v), perm=[0, 2, 1, 3]), net.i(0, 0, 24))
    return net.linear(out, 24, 8)


def rotated_pairs(net: Net) -> str:
    """Neighbouring channels are turned: (p 2), odd and even ones sliced apart and stacked again."""
    data = net.linear("x", 8, 12)
    end = 2**31
    even = net("Slice", data, net.i(0), net.i(end), net.i(2), net.i(2))
    odd = net("Slice", data, net.i(1), net.i(end), net.i(2), net.i(2))
    cos, sin = net.w(5, 6), net.w(5, 6)
    a = net("Sub", net("Mul", even, cos), net("Mul", odd, sin))
    b = net("Add", net("Mul", even, sin), net("Mul", odd, cos))
    pairs = net("Concat", net("Unsqueeze", a, net.i(3)), net("Unsqueeze", b, net.i(3)), axis=3)
    return net.linear(str(net("Reshape", pairs, net.i(0, 0, 12))), 12, 8)


def rotated_halves(net: Net) -> str:
    """Channels half a head apart are turned: p | p."""
    data = net.linear("x", 8, 12)
    left, right = net("Split", data, axis=2, num_outputs=2, outputs=2)
    turned = net("Concat", net("Neg", right), left, axis=2)
    half = net.w(5, 6)
    out = net("Add", net("Mul", data, net("Concat", half, half, axis=1)), net("Mul", turned, net.w(5, 12)))
    return net.linear(str(out), 12, 8)


def rolled_windows(net: Net) -> str:
    """Tokens 4x4, rolled by one and cut in windows of 2x2; channels pass through."""
    data = net("Reshape", net.linear("x", 8, 12), net.i(0, 4, 4, 12))
    big = 2**31
    for axis in (1, 2):
        head = net("Slice", data, net.i(1), net.i(big), net.i(axis))
        data = net("Concat", head, net("Slice", data, net.i(0), net.i(1), net.i(axis)), axis=axis)
    windows = net("Transpose", net("Reshape", data, net.i(-1, 2, 2, 2, 2, 12)), perm=[0, 1, 3, 2, 4, 5])
    mixed = net.linear(str(net("Reshape", windows, net.i(-1, 4, 12))), 12, 6)
    return net.linear(str(net("Reshape", mixed, net.i(-1, 16, 6))), 6, 8)


def shuffled(net: Net) -> str:
    """A channel shuffle between two convolutions of the same two groups of 4: (2 4) -> (4 2)."""
    data = net(
        "Transpose", net("Reshape", net("Transpose", "x", perm=[0, 2, 1]), net.i(0, 8, 5)), perm=[0, 1, 2]
    )
    a = net("Conv", data, net.w(16, 4, 1), group=2)
    b = net(
        "Reshape", net("Transpose", net("Reshape", a, net.i(0, 2, 8, 5)), perm=[0, 2, 1, 3]), net.i(0, 16, 5)
    )
    d = net("Conv", net("Conv", b, net.w(24, 8, 1), group=2), net.w(8, 24, 1))
    return str(net("Transpose", d, perm=[0, 2, 1]))


def pixel_shuffle(net: Net) -> str:
    """x2 super-resolution by Reshape and Transpose: (c 2 2) h w -> c (h 2) (w 2)."""
    image = net("Reshape", "x", net.i(0, 5, 2, 4))
    data = net("Conv", image, net.w(24, 5, 1, 1))
    six = net("Transpose", net("Reshape", data, net.i(0, 6, 2, 2, 2, 4)), perm=[0, 1, 4, 2, 5, 3])
    wide = net("Reshape", six, net.i(0, 6, 4, 8))
    return str(net("Conv", wide, net.w(3, 6, 1, 1)))


def picked_tokens(net: Net) -> str:
    """A GatherND mask over tokens leaves channels alone."""
    data = net.linear("x", 8, 12)
    picked = net("GatherND", data, net.c(np.array([[[0], [2]]] * 2, np.int64)), batch_dims=1)
    return net.linear(str(picked), 12, 8)


def fused_qkv(net: Net) -> str:
    """One weight for (3 h d), cut by Transpose and Gather."""
    data = net("Reshape", net.linear("x", 8, 72), net.i(0, 0, 3, 4, 6))
    five = net("Transpose", data, perm=[2, 0, 3, 1, 4])
    q, k, v = (net("Gather", five, net.c(np.int64(n)), axis=0) for n in range(3))
    scores = net("Softmax", net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2])))
    out = net("Reshape", net("Transpose", net("MatMul", scores, v), perm=[0, 2, 1, 3]), net.i(0, 0, 24))
    return net.linear(str(out), 24, 8)


def contrib_layer(net: Net) -> str:
    """A transformer layer as ONNX Runtime's optimiser writes it."""
    ms: dict[str, Any] = {"domain": "com.microsoft"}
    data = net.linear("x", 8, 16)
    mixed = net("Attention", data, net.w(16, 72), net.w(72), num_heads=4, **ms)
    one = net(
        "SkipLayerNormalization",
        net("MatMul", mixed, net.w(24, 16)),
        data,
        net.w(16),
        net.w(16),
        net.w(16),
        **ms,
    )
    inner = net("BiasGelu", net("MatMul", one, net.w(16, 32)), net.w(32), **ms)
    two = net("SkipLayerNormalization", net("MatMul", inner, net.w(32, 16)), one, net.w(16), net.w(16), **ms)
    return net.linear(str(two), 16, 8)


FREE, COUPLED = False, True
EXPECTED: list[tuple[Callable[[Net], str], list[tuple[int, bool]]]] = [
    (dense_experts, [(4, COUPLED), (12, FREE)]),
    (einsum_experts, [(4, COUPLED), (12, FREE)]),
    (picked_experts, [(4, COUPLED), (12, FREE)]),
    (picked_by_gather_nd, [(4, COUPLED), (12, FREE)]),
    (scattered_gate, [(5, COUPLED), (12, FREE)]),
    (one_hot_gate, [(5, COUPLED), (12, FREE)]),
    (counted_experts, []),
    (shared_keys, [(2, FREE), (2, FREE), (6, FREE), (6, FREE)]),
    (rotated_pairs, [(6, FREE)]),
    (rotated_halves, [(6, FREE)]),
    (rolled_windows, [(6, FREE), (12, FREE)]),
    (shuffled, [(2, FREE), (4, FREE), (12, FREE)]),
    (pixel_shuffle, [(6, FREE)]),
    (picked_tokens, [(12, FREE)]),
    (fused_qkv, [(4, FREE), (6, FREE)]),
    (contrib_layer, [(4, FREE), (6, FREE), (6, FREE), (16, COUPLED), (32, FREE)]),
]


@pytest.mark.parametrize(("build", "expected"), EXPECTED, ids=[build.__name__ for build, _ in EXPECTED])
def test_structure(build: Callable[[Net], str], expected: list[tuple[int, bool]]) -> None:
    net = Net()
    tokens = 16 if build is rolled_windows else 5
    analysis = analysed(
        net.model(build(net), ("batch", tokens, 8)),
        (2, tokens, 8),
        *([(3, tokens, 8)] if build is not picked_tokens else []),
    )
    assert sizes(find_groups(analysis)) == expected
    for seed in range(3):
        check(analysis, seed)
