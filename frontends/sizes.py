"""Sizes at which a model runs: candidates for its dynamic dimensions, cheapest and most telling first."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from pruneopt.errors import PruneoptError
from pruneopt.frontends.dimensions import Feeds, Pair, Place, Sizes, places_of
from pruneopt.frontends.synthetic import synthetic
from pruneopt.frontends.tensors import element_type, origin_of, readers
from pruneopt.model import Model, constants

# poolings, or raw audio. Sides of images divide by 32, lengths are odd so that a halving cannot hide.
LEVELS: dict[str, list[tuple[int, int]]] = {
    "image": [(64, 96), (32, 48), (224, 256), (320, 384), (512, 640)],
    "length": [(7, 48), (3, 5), (32, 48), (6, 9), (64, 96), (256, 384)],
    "signal": [(7, 11), (512, 640), (2048, 3072), (16000, 20000), (64000, 80000)],
}
LARGE_MODEL = 1 << 30  # bytes of weights
BATCHES = [(2, 3), (1, 1)]
# How the dimensions of one kind relate: sizes of their own or one size; then, for models that turn out to be
# less dynamic than they say, the same in both runs, or all as the batch.
RELATIONS = [("distinct", "equal"), ("fixed", "batch")]


def probe_sizes(model: Model) -> Iterator[tuple[Sizes, Sizes]]:
    """Candidate (small, large) sizes of all dynamic dimensions, most telling and cheapest first.

    The first candidates differ in every dimension and give each dimension a size of its own; later ones hold
    back for models that do not run so (batch of one, equal lengths, fixed sides). Channel counts follow from
    the weights; a dimension named by a sum (`past + seq`) follows from its terms. A model with nothing
    dynamic yields one pair of empty assignments.
    """
    places = places_of(model)
    seen: list[tuple[Sizes, Sizes]] = []
    levels = _levels(model)
    for relations in RELATIONS:
        for level, relation, batch in itertools.product(levels, relations, BATCHES):
            pair = (
                _assignment(places, relation, level, batch, 0),
                _assignment(places, relation, level, batch, 1),
            )
            if pair not in seen:
                seen.append(pair)
                yield pair


def _levels(model: Model) -> Sequence[int]:
    """The order in which `LEVELS` are tried: ONNX Runtime dies of a Scan over nothing, as short signals may be."""
    graphs = (model.graph, *model.graph.subgraphs(recursive=True))
    if any(node.op == "Scan" for graph in graphs for node in graph.nodes):
        return (3, 4, 2, 1, 0)
    return (1, 0, 2, 3, 4) if _is_large(model) else range(5)


def _is_large(model: Model) -> bool:
    """Whether every run is dear, so that short inputs go first."""
    return sum(int(c._values.nbytes) for c in constants(model.graph)) > LARGE_MODEL


def working_feeds(
    model: Model,
    runs: Callable[[Feeds], bool],
    seed: int = 0,
    hides: Callable[[Feeds, Feeds, Feeds], bool] = lambda small, large, third: False,
) -> tuple[Feeds, Feeds]:
    """Synthetic feeds of the first two sizes of `probe_sizes` at which `runs` says yes to both.

    Strides may make one size of two: `hides` says whether some size is the same in the first two feeds and
    another in the third, which then takes the place of the second.

    `runs` may also raise `PruneoptError` for no. Raises `PruneoptError` where nothing works, with the reason
    that was given for the first try. A model with nothing dynamic gets two draws of the same size.
    """
    reasons: list[str] = []

    def works(feeds: Feeds) -> bool:
        reasons.append(_refusal(runs, feeds))
        return not reasons[-1]

    for small, large in probe_sizes(model):
        pair = synthetic(model, small, seed), synthetic(model, large, seed + 1)
        if works(pair[0]) and works(pair[1]):
            sizes = _beyond(model, small, large)
            third = synthetic(model, sizes, seed + 1)
            return (pair[0], third) if sizes != large and works(third) and hides(*pair, third) else pair
    raise PruneoptError(
        f"the model runs on no synthetic input that was tried; give --calib ({next(filter(None, reasons))})"
    )


def given_feeds(model: Model, given: Feeds, runs: Callable[[Feeds], bool]) -> tuple[Feeds, Feeds]:
    """Real feeds, and the same with each dynamic dimension of another size where the model runs so, values repeated.

    For models that run on nothing that is drawn. Raises `PruneoptError` where it does not run on these either.
    """
    given = {tensor.name: given[tensor.name] for tensor in model.inputs if tensor.name in given}
    if reason := _refusal(runs, given):
        raise PruneoptError(f"the model does not run on the first batch of the calibration data: {reason}")
    places, larger = places_of(model), given
    sizes = {key: int(given[where[0][0].name].shape[where[0][1]]) for key, where in places.items()}
    for key in (key for key in places if key not in _sums(places)):
        size = sizes[key]
        for other in dict.fromkeys((size + size // 2, 2 * size, size // 2, size + 1)):
            trial = _summed(sizes | {key: other}, places)
            repeated = _repeated(given, places, trial)
            if other not in (0, size) and not _refusal(runs, repeated):
                sizes, larger = trial, repeated
                break
    return given, larger


def _refusal(runs: Callable[[Feeds], bool], feeds: Feeds) -> str:
    """Why a model does not run on these feeds; empty where it does."""
    try:
        return "" if runs(feeds) else "an output has no elements"
    except PruneoptError as error:
        return str(error)


def _repeated(feeds: Feeds, places: Mapping[str, list[Place]], sizes: Sizes) -> Feeds:
    """Feeds of other sizes, filled with the same values again and again."""
    made = dict(feeds)
    for key, where in places.items():
        for tensor, axis in where:
            made[tensor.name] = np.take(made[tensor.name], range(sizes[key]), axis, mode="wrap")
    return made


def _beyond(model: Model, small: Sizes, large: Sizes) -> Sizes:
    """Much larger sides of images and longer signals, the rest as in `large`."""
    strided = {key for key, where in places_of(model).items() if _kind(key, where) in ("image", "signal")}
    return {k: n + 2 * small[k] if k in strided and small[k] != n else n for k, n in large.items()}


def _assignment(places: dict[str, list[Place]], relation: str, level: int, batch: Pair, run: int) -> Sizes:
    """The size of every key in one run (0: small, 1: large) of one candidate."""
    sizes: Sizes = {}
    used = Counter[str]()
    sums = _sums(places)
    for key, where in places.items():
        if key in sums:
            continue
        kind = "batch" if relation == "batch" else _kind(key, where)
        small, large = batch if kind == "batch" else LEVELS[kind][level]
        apart = 2 * (large - small) * used[kind] if relation == "distinct" and kind != "batch" else 0
        used[kind] += 1
        varies = run and (relation != "fixed" or kind == "batch")
        sizes[key] = _channels(*where[0]) or apart + (large if varies else small)
    return _summed(sizes, places)


def _sums(places: Iterable[str]) -> dict[str, list[str]]:
    """The keys whose sizes are sums, and their terms."""
    return {key: terms for key in places if (terms := _terms(key, places))}


def _summed(sizes: Sizes, places: Iterable[str]) -> Sizes:
    """With all sums right."""
    return sizes | {
        key: sum(sizes[term] if term in sizes else int(term) for term in terms)
        for key, terms in _sums(places).items()
    }


def _kind(key: str, places: list[Place]) -> str:
    """What a dynamic dimension counts, by its name and else by where it is."""
    name = key.lower()
    tensor, axis = places[0]
    is_float = element_type(tensor).kind in "fV"
    rank = len(tensor.shape)
    waveform = rank == 2 or (rank == 3 and 1 in tensor.shape)
    signal = is_float and waveform and axis == rank - 1
    if "batch" in name:
        return "batch"
    if any(word in name for word in ("seq", "len", "past", "token")) or ("time" in name and not signal):
        return "length"
    if 2 * sum(axis == 0 for _, axis in places) > len(places):
        return "batch"
    if is_float and rank > 3:
        return "image"
    return "signal" if signal else "length"


def _terms(key: str, keys: Iterable[str]) -> list[str]:
    """The keys and numbers that the size `key` is the sum of; empty where it is a size of its own."""
    plain = [each for each in keys if "+" not in each]
    terms = [term.strip() for term in key.split("+")]
    if len(terms) > 1 and all(term in plain or term.isdigit() for term in terms):
        return terms
    past = [each for each in plain if "past" in each and "total" not in each]
    new = [each for each in plain if "seq" in each and "past" not in each and "total" not in each]
    return [past[0], new[0]] if "total" in key and past and new else []


def _channels(tensor: gs.Tensor, axis: int) -> int | None:
    """The size of `axis` where weights that consume it prescribe one, as the kernels of a Conv do."""
    for node, place in readers(tensor):
        if node.op in ("Identity", "Cast"):
            return _channels(node.outputs[0], axis)
        if node.op == "Transpose" and "perm" in node.attrs:
            return _channels(node.outputs[0], list(node.attrs["perm"]).index(axis))
        weight = origin_of(node.inputs[1]) if place == 0 and len(node.inputs) > 1 else None
        if isinstance(weight, gs.Constant):
            return _contracted(node, weight.shape, axis, len(tensor.shape or ()))
    return None


def _contracted(node: gs.Node, weight: Sequence[int], axis: int, rank: int) -> int | None:
    """How long `axis` of the data must be for `node` to apply a weight of shape `weight` to it."""
    if node.op == "Conv" and axis == 1:
        return int(weight[1] * node.attrs.get("group", 1))
    if node.op == "Gemm" and axis == 1:
        return weight[1 if node.attrs.get("transB", 0) else 0]
    if node.op == "MatMul" and axis == rank - 1 and len(weight) > 1:
        return weight[-2]
    return weight[2] if node.op in ("LSTM", "GRU", "RNN") and axis == 2 else None
