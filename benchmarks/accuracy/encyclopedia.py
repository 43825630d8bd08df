"""Sentences of the articles of Wikipedia that gensim brings along for its own tests."""

from __future__ import annotations

import bz2
import re
from collections.abc import Iterator

FILE = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"


def sentences() -> list[str]:
    """About 18,000 of 4 to 60 words, in the order of the articles, without markup and each once."""
    return list({sentence: None for line in _lines() for sentence in _sentences(line)})


def _lines() -> Iterator[str]:
    from gensim.corpora.wikicorpus import extract_pages, filter_wiki
    from gensim.test.utils import datapath

    with bz2.open(datapath(FILE)) as file:
        for _, text, _ in extract_pages(file, ("0",)):
            yield from filter_wiki(text).splitlines()


def _sentences(line: str) -> list[str]:
    found = re.split(r"(?<=[.!?])\s+", line.strip())
    return [s for s in found if 4 <= len(s.split()) <= 60 and s[0].isupper() and s[-1] in ".!?"]
