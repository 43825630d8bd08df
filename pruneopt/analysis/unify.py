"""Makes axes equal by union-find; atoms are split where the two sides are cut differently.

    (12 64) = 768          an atom takes the structure of the other side
    (12 64) = (24 32)      aligned from the minor end: 64 = (2 32), 24 = (12 2)
    q | k | v = (3 h d)    the leading factor is cut: 3 = 1 | 1 | 1, so q = k = v = (h d)
    a | b = b' | a'        aligned from the left, cut at the union of the boundaries

Where there is no common refinement `unify` raises `Clash`; freezing both sides is then always sound.
"""

from __future__ import annotations

from collections.abc import Sequence

from pruneopt.analysis.axes import (
    Axis,
    Kind,
    Size,
    atoms,
    concat,
    couple,
    factors,
    find,
    freeze,
    parts,
    product,
    show,
    size_text,
    times,
)


class Clash(Exception):
    """Two axes have no common refinement."""


def unify(a: Axis, b: Axis) -> None:
    """Make two axes equal.

    Raises:
        Clash: the sizes differ or there is no common refinement. Equalities asserted on the way stay;
            they only tie axes together, which is sound.
    """
    a, b = find(a), find(b)
    if a is b:
        return
    if a.size != b.size:
        raise Clash(f"sizes {size_text(a.size)} and {size_text(b.size)} differ")
    if a.kind is Kind.ATOM:
        _bind(a, b)
    elif b.kind is Kind.ATOM:
        _bind(b, a)
    elif a.kind is b.kind is Kind.PRODUCT:
        _unify_products(factors(a), factors(b))
    elif a.kind is b.kind:
        _unify_concats(parts(a), parts(b))
    elif a.kind is Kind.PRODUCT:
        _unify_mixed(a, b)
    else:
        _unify_mixed(b, a)


def _bind(atom: Axis, axis: Axis) -> None:
    if axis.kind is not Kind.ATOM and any(a is atom for a in atoms(axis)):
        raise Clash(f"an axis of size {size_text(atom.size)} would contain itself")
    atom._link = axis
    if atom.frozen:
        freeze(axis, atom.frozen)
    if atom.coupled:
        couple(axis, atom.coupled)


def _unify_products(left: list[Axis], right: list[Axis]) -> None:
    # (a b) = (c d): the minor factors are aligned; the larger is split so that they are equal.
    while left and right:
        x, y = find(left.pop()), find(right.pop())
        if x.kind is Kind.PRODUCT or y.kind is Kind.PRODUCT:  # split meanwhile: flatten again
            left += factors(x)
            right += factors(y)
        elif x.size == y.size:
            unify(x, y)
        elif _divides(y.size, x.size):
            outer, inner = _split_minor(x, y.size)
            unify(inner, y)
            left.append(outer)
        elif _divides(x.size, y.size):
            outer, inner = _split_minor(y, x.size)
            unify(inner, x)
            right.append(outer)
        else:
            raise Clash(f"{size_text(x.size)} and {size_text(y.size)} have no common factor")


def _unify_concats(left: list[Axis], right: list[Axis]) -> None:
    # a | b = c | d: aligned from the left; the longer part is cut where the shorter one ends.
    left, right = left[::-1], right[::-1]
    while left and right:
        x, y = find(left.pop()), find(right.pop())
        if x.kind is Kind.CONCAT or y.kind is Kind.CONCAT:
            left += parts(x)[::-1]
            right += parts(y)[::-1]
        elif x.size == y.size:
            unify(x, y)
        elif _less(x.size, y.size):
            head, tail = _cut(y, x.size)
            unify(head, x)
            right.append(tail)
        elif _less(y.size, x.size):
            head, tail = _cut(x, y.size)
            unify(head, y)
            left.append(tail)
        else:
            raise Clash(f"parts of {size_text(x.size)} and {size_text(y.size)} cannot be ordered")


def _unify_mixed(prod_axis: Axis, cat: Axis) -> None:
    # (n r) = p | q: cut the leading factor where parts end, or view p | q as (p' | q') r.
    rest = factors(prod_axis)[1:]
    runs = _runs(parts(cat), times(rest, len(prod_axis.size)))
    if len(runs) > 1:
        _unify_concats(_cut_all(prod_axis, [r.size for r in runs]), runs)
        return
    inner = factors(prod_axis)[-1]
    outer, minor_cat = _split_minor(cat, inner.size)
    unify(minor_cat, inner)
    unify(outer, product(factors(prod_axis)[:-1], len(prod_axis.size)))


def _runs(pieces: Sequence[Axis], minor: Size) -> list[Axis]:
    """The shortest runs of neighbouring parts whose sizes `minor` divides; what is left is the last."""
    runs: list[Axis] = []
    run: list[Axis] = []
    for piece in pieces:
        run.append(piece)
        if _divides(minor, concat(run).size):
            runs.append(concat(run))
            run = []
    return [*runs, concat(run)] if run else runs


def _cut_all(axis: Axis, sizes: Sequence[Size]) -> list[Axis]:
    pieces = []
    for size in sizes[:-1]:
        head, axis = _cut(axis, size)
        pieces.append(head)
    return [*pieces, axis]


def _split_minor(axis: Axis, minor: Size) -> tuple[Axis, Axis]:
    """Write `axis` as (outer inner) with inner of size `minor`, splitting atoms for good."""
    axis = find(axis)
    if axis.kind is Kind.CONCAT:  # a | b = (a' m) | (b' m) = (a' | b') m
        if not all(_divides(minor, p.size) for p in parts(axis)):
            raise Clash(f"{size_text(minor)} does not divide every part of {show(axis)}")
        inner = Axis(minor)
        outers = []
        for part in parts(axis):
            outer, part_inner = _split_minor(part, minor)
            unify(part_inner, inner)
            outers.append(outer)
        return concat(outers), inner
    if axis.kind is Kind.PRODUCT:
        return _split_product(axis, minor)
    outer, inner = Axis(_over(axis.size, minor)), Axis(minor)
    _bind(axis, product([outer, inner], len(minor)))
    return outer, inner


def _split_product(axis: Axis, minor: Size) -> tuple[Axis, Axis]:
    runs = len(minor)
    outer, inner = Axis(_over(axis.size, minor)), Axis(minor)
    _unify_products(factors(axis), [outer, inner])
    return product([outer], runs), product([inner], runs)


def _cut(axis: Axis, head: Size) -> tuple[Axis, Axis]:
    """Write `axis` as head | tail with the first of size `head`, cutting atoms for good."""
    axis = find(axis)
    if axis.kind is Kind.CONCAT:
        return _cut_concat(axis, head)
    if axis.kind is Kind.PRODUCT:  # ((a' | a") b) = (a' b) | (a" b)
        lead, *rest = factors(axis)
        minor = times(rest, len(head))
        if not _divides(minor, head):
            raise Clash(f"a cut at {size_text(head)} falls inside a factor of {show(axis)}")
        first, second = _cut(lead, _over(head, minor))
        return product([first, *rest], len(head)), product([second, *rest], len(head))
    first, second = Axis(head), Axis(_minus(axis.size, head))
    _bind(axis, concat([first, second]))
    return first, second


def _cut_concat(axis: Axis, head: Size) -> tuple[Axis, Axis]:
    before: list[Axis] = []
    pieces = parts(axis)
    while pieces:
        if head == pieces[0].size:
            return concat([*before, pieces[0]]), concat(pieces[1:])
        if not _less(pieces[0].size, head):
            first, second = _cut(pieces[0], head)
            return concat([*before, first]), concat([second, *pieces[1:]])
        head = _minus(head, pieces[0].size)
        before.append(pieces.pop(0))
    raise Clash(f"a cut at {size_text(head)} lies beyond the end")


def _divides(small: Size, large: Size) -> bool:
    return all(s and n % s == 0 for s, n in zip(small, large, strict=True))


def _less(a: Size, b: Size) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def _over(a: Size, b: Size) -> Size:
    return tuple(x // y for x, y in zip(a, b, strict=True))


def _minus(a: Size, b: Size) -> Size:
    return tuple(x - y for x, y in zip(a, b, strict=True))
