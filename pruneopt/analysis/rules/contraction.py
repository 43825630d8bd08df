"""Ops that sum over an axis: where width is consumed, and where the multiply-accumulates are."""

from __future__ import annotations

from pruneopt.analysis.op import Op
from pruneopt.analysis.rules import rule


@rule("MatMul")
def matmul(op: Op) -> None:
    """`... m k, ... k n -> ... m n`, with numpy's rules for vectors."""
    left = "k" if len(op.axes(0)) == 1 else "... m k"
    right = "k" if len(op.axes(1)) == 1 else "... k n"
    out = " ".join(["..."] * (len(left + right) > 5) + ["m"] * (left != "k") + ["n"] * (right != "k"))
    op.relate(f"{left}, {right} -> {out}", macs=True)
    op.weights &= {slot for slot in op.weights if op.inputs[slot] is not None}


@rule("Gemm")
def gemm(op: Op) -> None:
    """`m k, k n, ... -> m n`, each operand transposed where the attribute says so."""
    left = "k m" if op.attr("transA", 0) else "m k"
    right = "n k" if op.attr("transB", 0) else "k n"
    op.relate(f"{left}, {right} -> m n", macs=True)
    bias = op.input(2)
    if bias is not None:
        op.broadcast([bias, op.result()])


@rule("Conv")
def conv(op: Op) -> None:
    """Channels in g groups: `b (g i) *, (g o) i *, (g o) -> b (g o) *`; a window of one entry mixes no positions."""
    tail = "..." if is_pointwise(op) else "*"
    text = f"b (g i) {tail}, (g o) i *, (g o) -> b (g o) {tail}"
    names = op.relate(text, macs=True, g=op.attr("group", 1))
    op.sizes("group", [names["g"]], scalar=True)


def is_pointwise(op: Op) -> bool:
    """Whether each output position sees one input position, its own."""
    window = op.axes(1)[2:]
    steps, pads = op.attr("strides", []), op.attr("pads", [])
    plain = all(s == 1 for s in steps) and not any(pads)
    return plain and all(set(axis.size) == {1} for axis in window)


@rule("ConvTranspose")
def conv_transpose(op: Op) -> None:
    """Weights are stored input first: `b (g i) *, (g i) o *, (g o) -> b (g o) *`."""
    names = op.relate("b (g i) *, (g i) o *, (g o) -> b (g o) *", macs=True, g=op.attr("group", 1))
    op.sizes("group", [names["g"]], scalar=True)


@rule("Einsum")
def einsum(op: Op) -> None:
    """The op's own equation, read as a rule."""
    equation = op.attr("equation")
    text = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    left, arrow, right = text.partition("->")
    if not arrow:  # implicit output: the names that occur once, in alphabetical order
        right = "".join(sorted(c for c in set(left) if c.isalpha() and left.count(c) == 1))
    if any(len(set(term)) != len(term) for term in left.replace("...", "").split(",")):
        op.freeze_all("takes a diagonal")
        return
    spaced = [" ".join(term.replace("...", ".")).replace(".", "...") for term in left.split(",")]
    op.relate(f"{', '.join(spaced)} -> {' '.join(right.replace('...', '.')).replace('.', '...')}", macs=True)
