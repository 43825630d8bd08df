"""Which values of shape arithmetic a dynamic dimension can reach."""

from __future__ import annotations

import onnx

from pruneopt.api import make_context
from pruneopt.model import Model

SIZES = """<ir_version: 8, opset_import: ["" : 18]>
g (float[N, 4, 6] x) => (int64 whole, int64 each, int64[k] doubled) {
    shape = Shape (x)
    whole_prod = ReduceProd <keepdims = 0> (shape)
    whole_float = Cast <to = 1> (whole_prod)
    whole = Cast <to = 7> (whole_float)
    tail = Shape <start = 1> (x)
    each_prod = ReduceProd <keepdims = 0> (tail)
    each = Cast <to = 7> (each_prod)
    sizes = Concat <axis = 0> (shape, tail)
    doubled = Add (sizes, sizes) }"""


def test_products_of_sizes_are_static_where_all_of_these_are() -> None:
    """A product over a vector is a scalar that is not followed: all of it is dynamic (piper's GRU in a loop)."""
    model = Model.from_proto(onnx.parser.parse_model(SIZES))
    seen = make_context(model).observation(model)
    assert not {"whole_prod", "whole_float", "whole", "doubled"} & seen.static.keys()
    assert {name: seen.static[name].tolist() for name in ("each_prod", "each")} == {
        "each_prod": 24,
        "each": 24,
    }
