"""Attention and rotary embedding as single ops.

Query heads are `(k r)`: k heads of keys and values, each shared by r of the queries. Queries and keys are
contracted over the head width d, so the default scale, 1/sqrt(d), is written down before d shrinks.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.op import Op
from pruneopt.analysis.rules import rule

MS = "com.microsoft"
WHY = "softmax runs over it"


@rule("Attention", since=23)
def attention(op: Op) -> None:
    """`b (k r) s d, b k t d, b k t e -> b (k r) s e`, or with heads and width as one last dimension."""
    if len(op.axes(0)) == 4:
        terms = "b (k r) s d, b k ~t d, b k ~t e, , b k ~p d, b k ~p e, -> b (k r) s e"
        sizes: dict[str, Any] = {}
    else:
        terms = "b s (k r d), b ~t (k d), b ~t (k e), , b k ~p d, b k ~p e, -> b s (k r e)"
        heads = op.attr("kv_num_heads")
        sizes = {"k": heads, "r": op.attr("q_num_heads") // heads}
    names = op.relate(f"{terms}, b k T d, b k T e, b (k r) s T", why=WHY, **sizes)
    if sizes:
        op.sizes("kv_num_heads", [names["k"]], scalar=True)
        op.sizes("q_num_heads", [op.product([names["k"], names["r"]])], scalar=True)
    _scores(op, names, mask=3)
    if op.attr("is_causal", 0) or op.present(6):
        op.freeze([names["s"], names["t"]], "a causal mask counts positions")
    op.contract(0, -1, "qk")
    op.contract(1, -1, "qk")
    _keep_scale(op, names["d"])


def _scores(op: Op, names: dict[str, Axis], mask: int) -> None:
    """Queries times keys, `b (k r) s T` with T = p | t, where a mask is added and softmax runs over T."""
    heads = op.product([names["k"], names["r"]])
    total = op.concat([names["p"], names["t"]]) if "p" in names else names["t"]
    if "T" in names:
        op.equal(names["T"], total)
    term = op.input(mask)
    if term is not None:
        op.broadcast([term, [names["b"], heads, names["s"], total]])
    for width in ("d", "e"):
        op.count_macs(names["b"], heads, names["s"], total, names.get(width, names["d"]))


def _keep_scale(op: Op, width: Axis) -> None:
    if not width.static:
        op.freeze([width], "the default scale depends on a dynamic width")
    elif not op.attr("scale", 0):
        op.fixed("scale", 1 / sqrt(width.size[0]), width)


@rule("RotaryEmbedding", since=23)
def rotary(op: Op) -> None:
    """`b h s d` or `b s (h d)`; what is rotated is `p | p`, or `(p 2)` where interleaved."""
    positions = "m p, m p, b s" if op.present(3) else "b s p, b s p"
    _rotary(op, positions, half=1)


@rule("RotaryEmbedding", domain=MS)
def rotary_contrib(op: Op) -> None:
    """The same with other places, and heads counted by the caches where `num_heads` is not given."""
    if op.attr("is_packed_batching", 0):
        op.freeze_all("holds sequences of several lengths")
        return
    _rotary(op, "b s, m p, m p" if len(op.axes(1)) == 2 else ", m p, m p", half=2)


def _rotary(op: Op, others: str, half: int) -> None:
    data, cache = op.axes(0), op.axes(half)
    heads = op.attr("num_heads", 0) or data[-1].size[0] // (2 * cache[-1].size[0])
    terms = "b h s d" if len(data) == 4 else "b s (h d)"
    text = f"{terms}, {others} -> {terms}"
    names = op.relate(text) if len(data) == 4 else op.relate(text, h=heads)
    if "m" in names:
        op.freeze([names["m"]], "rows are looked up by position")
        op.weights.discard(half)
    op.equal(names["d"], _rotated(op, names["p"], names["d"], bool(op.attr("interleaved", 0))))
    if op.attr("rotary_embedding_dim", 0):
        op.sizes("rotary_embedding_dim", [(names["p"], names["p"])], scalar=True)
    if op.attr("num_heads", 0) and len(data) == 3:
        op.sizes("num_heads", [names["h"]], scalar=True)


def _rotated(op: Op, half: Axis, width: Axis, interleaved: bool) -> Axis:
    """A head whose pairs are rotated: neighbours, or entries half a head apart; the rest passes through."""
    rest = op.fresh(width.size[0] - 2 * half.size[0])
    if not interleaved:
        return op.concat([half, half, rest])
    pair = op.fresh(2)
    op.freeze([pair], "the two sides of a rotation")
    return op.concat([op.product([half, pair]), rest])


@rule("Attention", domain=MS)
def attention_contrib(op: Op) -> None:
    """`b s i, i W, W -> b s (h e)` where `W = (h d) | (h d) | (h e)`."""
    data, weights, out = op.axes(0), op.axes(1), op.result()
    heads, (queries, values) = op.fresh(op.attr("num_heads")), _widths(op, weights[1])
    d, e = op.fresh(queries // heads.size[0]), op.fresh(values // heads.size[0])
    qk, v = op.product([heads, d]), op.product([heads, e])
    op.equal_all(data[:2], out[:2])
    op.equal(data[2], weights[0])
    op.equal(weights[1], op.concat([qk, qk, v]))
    op.equal(out[2], v)
    op.contract(0, 2, "input")
    op.contract(1, 0, "input")
    op.contract(1, 1, "columns")
    op.contract(2, 0, "bias")
    op.weights.add(1)
    if (bias := op.input(2)) is not None:
        op.equal(bias[0], weights[1])
    op.freeze([data[1]], WHY)
    if op.attr("do_rotary", 0) or op.present(4) or len(op.outputs) > 1:
        op.freeze([d, e], "its cache or rotation fixes the head width")
    for slot in (3, 4, 5):
        op.freeze(op.axes(slot), "a mask or cache")
    op.freeze([axis for extra in op.outputs[1:] for axis in extra or []], "a mask or cache")
    if any(set(axis.size) == set(heads.size) for slot in (4, 5) for axis in op.axes(slot)):
        op.freeze([heads], "a mask or cache is kept per head")
    op.sizes("num_heads", [heads], scalar=True)
    op.sizes("qkv_hidden_sizes", [qk, qk, v])
    _keep_scale(op, d)
    op.count_macs(data[0], data[1], weights[0], weights[1])
    op.count_macs(data[0], heads, data[1], data[1], d)
    op.count_macs(data[0], heads, data[1], data[1], e)


def _widths(op: Op, columns: Axis) -> tuple[int, int]:
    """Columns of the queries, and of the values."""
    given = op.attr("qkv_hidden_sizes")
    third = columns.size[0] // 3
    return (int(given[0]), int(given[2])) if given else (third, third)


@rule("MultiHeadAttention", domain=MS)
def multi_head(op: Op) -> None:
    """`b s (h d), b t (h d), b t (h e) -> b s (h e)`; keys and values may come as `b h t d`."""
    key, value = op.input(1), op.input(2)
    if key is None or value is None:
        op.freeze_all("has its operands packed into one")
        return
    keys, values = ("b h ~t d", "b h ~t e") if len(key) == 4 else ("b ~t (h d)", "b ~t (h e)")
    if len(key) == 4 or op.present(6) or len(op.outputs) > 1:
        values = values.replace("e", "d")  # its caches have one width
    width = values.split()[-1].strip("()")[-1]
    text = f"b s (h d), {keys}, {values}, , , , b h ~p d, b h ~p d -> b s (h {width}), b h T d, b h T d"
    names = op.relate(text, why=WHY, h=op.attr("num_heads"))
    names = {**names, "k": names["h"], "r": op.product([])}
    qk = op.product([names["h"], names["d"]])
    if (bias := op.input(3)) is not None:
        op.equal(bias[0], op.concat([qk, qk, op.product([names["h"], names.get("e", names["d"])])]))
        op.contract(3, 0, "bias")
    op.contract(0, -1, "qk")
    _scores(op, names, mask=5)
    op.freeze(op.axes(4), "a mask counts positions")
    if op.present(4) or op.attr("unidirectional", 0) or "p" in names:
        op.freeze([names["s"], names["t"]], "a mask counts positions")
    op.freeze([axis for slot in (8, 9) for axis in op.axes(slot)], "a cache")
    op.freeze([axis for extra in op.outputs[3:] for axis in extra or []], "scores by position")
    op.sizes("num_heads", [names["h"]], scalar=True)
    _keep_scale(op, names["d"])


@rule("GroupQueryAttention", domain=MS)
def group_query(op: Op) -> None:
    """`b s (k r d), b t (k d), b t (k d) -> b s (k r d)`; head widths are blocks of 8."""
    kv, heads = op.attr("kv_num_heads"), op.attr("num_heads")
    others = ", , , , , , , (k r)"
    caches = "b k p d, b k p d"
    sizes = {"k": kv, "r": heads // kv}
    if op.present(1):
        text = f"b s (k r d), b s (k d), b s (k d), {caches}{others} -> b s (k r d), b k T d, b k T d"
        names = op.relate(text, **sizes)
        d = names["d"]
    else:
        query = op.axes(0)[-1]
        sizes["d"] = query.size[0] // (heads + 2 * kv)
        text = f"b s packed, , , {caches}{others} -> b s (k r d), b k T d, b k T d"
        names = op.relate(text, **sizes)
        d = names["d"]
        each = op.product([names["k"], d])
        op.equal(query, op.concat([op.product([names["k"], names["r"], d]), each, each]))
    op.contract(0, -1, "qk")
    _block_width(op, d)
    op.freeze([names["s"], *(names[n] for n in ("p", "T") if n in names)], "a causal mask counts positions")
    op.parameter(5, 6, 9, 12, 13)
    if any(op.present(slot) for slot in (10, 12, 13, 14, 15)):
        op.freeze([d, names["k"], names["r"]], "works with a bias, norm or quantised cache per head")
        op.freeze([axis for slot in (10, 14, 15) for axis in op.axes(slot)], "kept per head")
    op.sizes("num_heads", [op.product([names["k"], names["r"]])], scalar=True)
    op.sizes("kv_num_heads", [names["k"]], scalar=True)
    _keep_scale(op, d)
    op.count_macs(names["b"], names["k"], names["r"], names["s"], names.get("T", names["s"]), d)
    op.count_macs(names["b"], names["k"], names["r"], names["s"], names.get("T", names["s"]), d)


def _block_width(op: Op, width: Axis) -> None:
    """Head widths in blocks of 8, rotated or not."""
    cos, sin = op.input(7), op.input(8)
    rotated = bool(op.attr("do_rotary", 0)) and cos is not None and sin is not None
    target = cos[-1] if rotated and cos else width
    if target.size[0] % 8:
        op.freeze([width], "its kernels work in blocks of 8")
    else:
        block = op.fresh(8)
        op.freeze([block], "its kernels work in blocks of 8")
        op.equal(target, op.product([op.fresh(target.size[0] // 8), block]))
    if rotated and cos and sin:
        op.equal(cos[-1], sin[-1])
        op.freeze([cos[0], sin[0]], "rows are looked up by position")
        op.equal(width, _rotated(op, cos[-1], width, bool(op.attr("rotary_interleaved", 0))))
