"""Ops that move entries without computing: products, concatenations and permutations of axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pruneopt.analysis.axes import Axis, times
from pruneopt.analysis.op import Axes, Op
from pruneopt.analysis.rules import rule
from pruneopt.analysis.witness import Entry, Style

Bounds = tuple[Entry, Entry]  # start and end of a piece


@rule("Transpose")
def transpose(op: Op) -> None:
    """Output dimension i is input dimension perm[i]."""
    data, out = op.axes(0), op.result()
    for i, source in enumerate(op.attr("perm", list(range(len(data)))[::-1])):
        op.equal(out[i], data[source])


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(op: Op) -> None:
    """Row-major regrouping, solved in minimal blocks of equal size.

    `[2, 56, 56, 96] -> [2, 8, 7, 8, 7, 96]` is four blocks, so that one without common refinement
    freezes only itself.
    """
    data, out = op.axes(0), op.result()
    for left, right in blocks(data, out, op.runs):
        op.equal(op.product(left), op.product(right))
    if op.node.op == "Reshape":
        op.sizes(op.place("shape", 1), out, style=Style.RESHAPE)


def blocks(left: Axes, right: Axes, runs: int) -> Iterator[tuple[Axes, Axes]]:
    """The shortest runs of dimensions from both sides whose sizes multiply to the same number."""
    left, right = list(left), list(right)
    while left or right:
        a, b = left[:1], right[:1]
        del left[:1], right[:1]
        while times(a, runs) != times(b, runs) and (left or right):
            short_a = sum(times(a, runs)) <= sum(times(b, runs))
            if (short_a and left) or not right:
                a.append(left.pop(0))
            else:
                b.append(right.pop(0))
        yield a, b


@rule("Concat")
def concat(op: Op) -> None:
    """Along `axis` the output is `a | b | ...`; the other dimensions are equal."""
    join(op, [t for t in op.inputs if t is not None])


def join(op: Op, terms: Sequence[Axes]) -> None:
    """Along the attribute `axis` the output is the concatenation of these terms."""
    out = op.result()
    axis = op.attr("axis", 1) % len(out)
    for term in terms:
        op.equal_all(term[:axis] + term[axis + 1 :], out[:axis] + out[axis + 1 :])
    op.equal(op.concat([t[axis] for t in terms]), out[axis])


@rule("Split")
def split(op: Op) -> None:
    """Along `axis` the input is the concatenation of the outputs."""
    data = op.axes(0)
    axis = op.attr("axis", 0) % len(data)
    for out in (o for o in op.outputs if o is not None):
        op.equal_all(data[:axis] + data[axis + 1 :], out[:axis] + out[axis + 1 :])
    sizes = op.value("split", 1)
    if sizes is None and None in op.outputs:
        op.freeze([data[axis], *(o[axis] for o in op.outputs if o)], "part of it is dropped")
        return
    pieces = [o[axis] if o else op.fresh((sizes or [])[i]) for i, o in enumerate(op.outputs)]
    op.equal(data[axis], op.concat(pieces))
    op.sizes("split" if op.opset < 13 else 1, pieces, instead_of="num_outputs")


@rule("Slice")
def slice_(op: Op) -> None:
    """A piece of each axis: `x = before | out | after`, and `x = (out s)` for a step of s."""
    data, out = op.axes(0), op.result()
    if op.present(3) and op.value("axes", 3) is None:
        op.freeze_all("sliced along a computed axis")
        return
    axes = [a % len(data) for a in op.value("axes", 3) or range(len(data))]
    starts, ends = op.value("starts", 1), op.value("ends", 2)
    steps = op.value("steps", 4) or [1] * len(axes)
    for dim in set(range(len(data))) - set(axes):
        op.equal(data[dim], out[dim])
    pieces: list[Bounds | None] = []
    for i, dim in enumerate(axes):
        known = (starts[i], ends[i], steps[i]) if starts and ends else None
        pieces.append(_piece(op, data[dim], out[dim], known))
    if starts and ends and any(p is not None for p in pieces):
        _bounds(op, starts, ends, pieces, [data[dim] for dim in axes])


def _piece(op: Op, axis: Axis, out: Axis, known: tuple[int, int, int] | None) -> Bounds | None:
    """Relate one sliced axis; returns its start and end where they follow the sizes."""
    if axis.size == out.size and (known is None or known[2] == 1):
        op.equal(axis, out)
        return None
    if known is None or not axis.static or not out.static:
        op.freeze([axis, out], "sliced at computed places")
        return None
    total = axis.size[0]
    start, _, step = slice(*known).indices(total)
    if step == 1:
        before, after = op.fresh(start), op.fresh(total - start - out.size[0])
        op.equal(axis, op.concat([before, out, after]))
        return (before,), (before, out)
    if step > 1 and start < step and total % step == 0:  # every s-th entry: x = (out s)
        inner = op.fresh(step)
        op.freeze([inner], f"every {step}th entry is picked")
        op.equal(axis, op.product([out, inner]))
        return start, (axis,)  # a start counted from the end would move
    op.freeze([axis, out], f"sliced with step {step}")
    return None


def _bounds(op: Op, starts: list[int], ends: list[int], pieces: list[Bounds | None], sliced: Axes) -> None:
    """New bounds, where they follow the sizes; those counted from the end move with what is behind, too."""
    for name, slot, old, i in (("starts", 1, starts, 0), ("ends", 2, ends, 1)):
        entries = [was if piece is None else piece[i] for was, piece in zip(old, pieces, strict=True)]
        op.sizes(op.place(name, slot), entries, also=sliced if min(old) < 0 else ())


@rule("Pad")
def pad(op: Op) -> None:
    """`out = new | x | new` where a constant is padded; anything else depends on the neighbours."""
    data, out = op.axes(0), op.result()
    pads = op.value("pads", 1)
    axes = op.value("axes", 3) or list(range(len(data)))
    axes = [a % len(data) for a in axes]
    entries: list[int | Axis] = [] if pads is None else list(pads)
    for dim, (x, y) in enumerate(zip(data, out, strict=True)):
        at = axes.index(dim) if dim in axes else None
        if x.size == y.size and (at is None or pads is None or not pads[at]):
            op.equal(x, y)
        elif pads is None or at is None or op.attr("mode", "constant") not in ("constant", b"constant"):
            op.freeze([x, y], "padded from its own entries or at computed places")
        elif min(pads[at], pads[at + len(axes)]) < 0:
            op.freeze([x, y], "cropped by a negative pad")
        else:
            before, after = op.fresh(pads[at]), op.fresh(pads[at + len(axes)])
            op.equal(op.concat([before, x, after]), y)
            entries[at], entries[at + len(axes)] = before, after
    if any(isinstance(e, Axis) for e in entries):
        op.sizes(op.place("pads", 1), entries)


@rule("Expand")
def expand(op: Op) -> None:
    """A dimension of size 1 becomes any number of equal entries."""
    data, out = op.axes(0), op.result()
    op.broadcast([data, out])
    op.sizes(1, out, style=Style.EXPAND)


@rule("Tile")
def tile(op: Op) -> None:
    """`out = (r x)` for r repeats."""
    data, out = op.axes(0), op.result()
    repeats: list[int | Axis] = []
    for x, y in zip(data, out, strict=True):
        times = op.fresh(tuple(n // max(m, 1) for n, m in zip(y.size, x.size, strict=True)))
        op.equal(op.product([times, x]), y)
        repeats.append(times)
    op.sizes(op.place("repeats", 1), repeats)


@rule("ConstantOfShape")
def constant_of_shape(op: Op) -> None:
    """Equal entries in any number."""
    op.sizes(0, op.result())


@rule("Resize", "Upsample")
def resize(op: Op) -> None:
    """Dimensions that keep their size are equal; resized ones interpolate between neighbours."""
    data, out = op.axes(0), op.result()
    for x, y in zip(data, out, strict=True):
        op.equal(x, y) if x.size == y.size else op.freeze([x, y], "resized")
    op.parameter(1, 2, 3)
    if op.node.op == "Resize" and op.present(3) and not op.attr("axes"):
        op.sizes(3, out)


@rule("DepthToSpace")
def depth_to_space(op: Op) -> None:
    """Pixel shuffle: block factors move from channels to space."""
    block = op.attr("blocksize")
    crd = op.attr("mode", "DCR") in ("CRD", b"CRD")
    names = op.relate(
        "b (c s t) h w -> b c (h s) (w t)" if crd else "b (s t c) h w -> b c (h s) (w t)", s=block, t=block
    )
    op.freeze([names["s"], names["t"]], "part of a pixel block")


@rule("SpaceToDepth")
def space_to_depth(op: Op) -> None:
    """Pixel unshuffle: block factors move from space to channels."""
    block = op.attr("blocksize")
    names = op.relate("b c (h s) (w t) -> b (s t c) h w", s=block, t=block)
    op.freeze([names["s"], names["t"]], "part of a pixel block")


@rule("Shape", "Size")
def shape(op: Op) -> None:
    """A vector of sizes: its own axis is no axis of the data."""
    op.freeze(op.result(), "a list of sizes")
    if op.node.op == "Size":
        op.freeze(op.axes(0), "its element count is used as a value")


@rule(
    "Range",
    "EyeLike",
    "NonZero",
    "RandomNormal",
    "RandomUniform",
    "Multinomial",
    "Unique",
    "Compress",
)
def counted(op: Op) -> None:
    """Positions, counts, classes or frequencies are values here."""
    op.freeze_all("positions along it are values")


@rule("Trilu")
def trilu(op: Op) -> None:
    """Keeps a triangle of the last two dimensions."""
    data, out = op.axes(0), op.result()
    op.equal_all(data, out)
    op.freeze(data[-2:], "a triangle is cut by position")


@rule("ReverseSequence")
def reverse_sequence(op: Op) -> None:
    """Reverses along one axis."""
    op.equal_all(op.axes(0), op.result())
    op.freeze(op.axes(0)[:2], "reversed by position")
    op.parameter(1)
