"""Fused ops of ONNX Runtime: what its optimisers make of standard ops.

Ops without a CPU kernel have no rule: their sizes cannot be observed, nor their results verified.
"""

from __future__ import annotations

from pruneopt.analysis.axes import Axis
from pruneopt.analysis.op import Axes, Op
from pruneopt.analysis.rules import pattern, rule
from pruneopt.analysis.rules.contraction import gemm
from pruneopt.analysis.rules.elementwise import quantise, unary
from pruneopt.analysis.rules.movement import trilu
from pruneopt.analysis.rules.normalisation import NORM, sum_of_squares

MS = "com.microsoft"

pattern("... c, c -> ... c", "BiasGelu", "FastGelu", domain=MS)


rule("Gelu", "QuickGelu", domain=MS)(unary)
rule("QuantizeLinear", "DequantizeLinear", domain=MS)(quantise)
rule("FusedGemm", domain=MS)(gemm)
rule("Trilu", domain=MS)(trilu)


@rule("SkipLayerNormalization", domain=MS)
def skip_layer_norm(op: Op) -> None:
    """`... c, ... c, c, c, c -> ... c, , , ... c`."""
    _skip_norm(op, vectors=(2, 3, 4))


@rule("SkipSimplifiedLayerNormalization", domain=MS)
def skip_rms_norm(op: Op) -> None:
    """`... c, ... c, c, c -> ... c, , , ... c`."""
    _skip_norm(op, vectors=(2, 3), centred=False)


def _skip_norm(op: Op, vectors: tuple[int, ...], centred: bool = True) -> None:
    data = op.axes(0)
    terms: list[Axes] = [t for t in (data, op.input(1), op.outputs[0], *op.outputs[3:4]) if t is not None]
    op.broadcast(terms)
    for slot in vectors:
        if (vector := op.input(slot)) is not None:
            op.equal(vector[0], data[-1])
    for extra in (o for o in op.outputs[1:3] if o):
        op.equal_all(extra[:-1], data[:-1])
    if centred:
        op.statistic(0, len(data) - 1, NORM)
        return
    sum_of_squares(op, data[-1], scale=2, default=1e-12)
    for slot in (1, 3):  # what is added has to be zero there, too
        if (term := op.input(slot)) is not None:
            op.contract(slot, len(term) - 1, f"term {slot}")


@rule("EmbedLayerNormalization", domain=MS)
def embed_layer_norm(op: Op) -> None:
    """`b s, b s, v c, p c, g c, c, c, b s, b s -> b s c, b, b s c`: looked up, added, normalised."""
    text = "b s, b s, v c, p c, g c, c, c, b s, q s -> b s c, b, b s c"
    names = op.relate(text)
    op.contractions.clear()  # rows are picked, not summed
    op.weights |= {2, 3, 4}
    op.freeze([names[n] for n in "vpgs" if n in names], "rows are looked up by data")
    op.statistic(2, 1, NORM)


@rule("FusedConv", domain=MS)
def fused_conv(op: Op) -> None:
    """Conv, an addition and an activation: `b (g i) *, (g o) i *, (g o), b (g o) * -> b (g o) *`."""
    names = op.relate("b (g i) *, (g o) i *, (g o), b (g o) * -> b (g o) *", macs=True, g=op.attr("group", 1))
    op.sizes("group", [names["g"]], scalar=True)


pattern("b * c -> b * c", "NhwcMaxPool", domain=MS)


@rule("FusedMatMul", "TransposeMatMul", domain=MS)
def fused_matmul(op: Op) -> None:
    """MatMul whose operands may be transposed, in the last two dimensions or with the first as a batch."""
    if op.attr("transBatchA", 0) or op.attr("transBatchB", 0):
        op.freeze_all("moves the batch dimension")
        return
    left = "... k m" if op.attr("transA", 0) else "... m k"
    right = "... n k" if op.attr("transB", 0) else "... k n"
    op.relate(f"{left}, {right} -> ... m n", macs=True)


@rule("MatMulNBits", domain=MS)
def matmul_n_bits(op: Op) -> None:
    """`... (j block), n j blob, n j, n j, , n -> ... n`; packed zero points tie blocks together."""
    data, packed, out = op.axes(0), op.axes(1), op.result()
    inner, columns = data[-1], packed[0]
    op.equal_all(data[:-1], out[:-1])
    op.equal(columns, out[-1])
    op.freeze(packed[2:], "bytes of one block")
    op.weights.add(1)
    op.count_macs(*out, inner)
    block = op.fresh(op.attr("block_size"))
    op.freeze([block], "entries of one block share a scale")
    if inner.size == op.product([packed[1], block]).size:
        op.equal(inner, op.product([packed[1], block]))
    else:
        op.freeze([inner, packed[1]], "its last block is not full")
    op.contract(0, len(data) - 1)
    for slot in (2, 3):
        _per_block(op, op.input(slot), columns, packed[1])
    if (bias := op.input(5)) is not None:
        op.equal(bias[0], columns)
    if op.present(4):
        op.freeze([inner, *(op.axes(4))], "entries are assigned to groups")
    op.sizes("K", [inner], scalar=True)
    op.sizes("N", [columns], scalar=True)


def _per_block(op: Op, term: Axes | None, columns: Axis, blocks: Axis) -> None:
    """Scales or zero points, one per column and block, flat or not; bytes may hold two."""
    if term is None:
        return
    whole = op.product([columns, blocks])
    if len(term) == 2 and term[1].size == blocks.size:
        op.equal_all(term, [columns, blocks])
    elif len(term) == 1 and term[0].size == whole.size:
        op.equal(term[0], whole)
    else:  # blocks = (bytes n) where n of them share a byte, if all bytes are full
        each = op.fresh(op.product(term).size[0] // columns.size[0])
        op.equal(op.product(term), op.product([columns, each]))
        shared = op.fresh(blocks.size[0] // max(each.size[0], 1))
        op.freeze([shared], "blocks share a byte")
        if op.product([each, shared]).size == blocks.size:
            op.equal(blocks, op.product([each, shared]))
        else:
            op.freeze([blocks, each], "blocks share a byte")
