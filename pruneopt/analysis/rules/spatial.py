"""Ops on images, regions and signals: channels pass through, places are mixed."""

from __future__ import annotations

from pruneopt.analysis.op import Op
from pruneopt.analysis.rules import pattern, rule
from pruneopt.analysis.rules.movement import counted

pattern("b c *, b * -> b c *", "GridSample")


@rule("MaxRoiPool", "RoiAlign")
def region_pool(op: Op) -> None:
    """`b c *, n 4, n -> n c *`."""
    op.relate("b c *, n *, n -> n c *")


@rule("DeformConv")
def deform_conv(op: Op) -> None:
    """Conv whose places are shifted by `b * *` offsets for each of their own groups of channels."""
    names = op.relate("b (g i) *, (g o) i *, , (g o) -> b (g o) *", macs=True, g=op.attr("group", 1))
    op.sizes("group", [names["g"]], scalar=True)
    groups = op.attr("offset_group", 1)
    for slot in (2, 4):
        op.freeze(op.axes(slot), "offsets belong to places")
    if groups > 1:
        op.freeze([names["g"], names["i"]], "channels belong to groups of offsets")


@rule("Col2Im")
def col2im(op: Op) -> None:
    """`b (c k) l -> b c *` for k places of a block."""
    block = op.value("block_shape", 2)
    places = 1
    for size in block or []:
        places *= size
    op.parameter(1, 2)
    if block is None:
        op.freeze_all("its block has a computed shape")
        return
    names = op.relate("b (c k) l, , -> b c *", k=places)
    op.contractions.clear()  # columns are put back, not summed away
    op.freeze([names["k"], names["l"]], "positions are mixed by a window")


@rule("CenterCropPad")
def center_crop_pad(op: Op) -> None:
    """Dimensions that keep their size are equal."""
    for x, y in zip(op.axes(0), op.result(), strict=True):
        op.equal(x, y) if x.size == y.size else op.freeze([x, y], "cropped or padded by position")
    axes = op.attr("axes") or range(len(op.axes(0)))
    op.freeze([op.axes(0)[a] for a in axes], "cropped or padded by position")
    op.parameter(1)


@rule("DFT")
def dft(op: Op) -> None:
    """One axis is transformed; the last holds real and imaginary parts."""
    data, out = op.axes(0), op.result()
    axis = (op.value("axis", 2) or [-2 if op.opset >= 20 else 1])[0] % len(data)
    for dim, (x, y) in enumerate(zip(data, out, strict=True)):
        if dim in (axis, len(data) - 1):
            op.freeze([x, y], "frequencies and complex parts have a meaning")
        else:
            op.equal(x, y)
    op.parameter(1, 2)


@rule("Det")
def determinant(op: Op) -> None:
    """`... n n -> ...`."""
    data = op.axes(0)
    op.equal_all(data[:-2], op.result())
    op.freeze(data[-2:], "a determinant is taken")


@rule("Inverse", domain="com.microsoft")
def inverse(op: Op) -> None:
    """`... n n -> ... n n`."""
    data = op.axes(0)
    op.equal_all(data, op.result())
    op.freeze(data[-2:], "a matrix is inverted")


@rule("TensorScatter")
def tensor_scatter(op: Op) -> None:
    """A cache is written along `axis`; the other dimensions are equal."""
    cache, update, out = op.axes(0), op.axes(1), op.result()
    axis = op.attr("axis", -2) % len(cache)
    op.equal_all(cache, out)
    for dim, (x, y) in enumerate(zip(cache, update, strict=True)):
        if dim in (0, axis):
            op.freeze([x, y], "written by position")
        else:
            op.equal(x, y)
    op.parameter(2)


rule(
    *"AffineGrid BlackmanWindow HammingWindow HannWindow MaxUnpool MelWeightMatrix".split(),
    *"NonMaxSuppression STFT NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss".split(),
)(counted)
