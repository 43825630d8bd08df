"""How fast a model with zeros is once it has kernels: for passes that plan zeros by time."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from pruneopt.arrays import Feeds
from pruneopt.backends.ort import Observer
from pruneopt.backends.session import Session
from pruneopt.backends.turns import interleaved
from pruneopt.backends.tvm import tuning
from pruneopt.backends.tvm.records import Records
from pruneopt.backends.tvm.rewriting import rewrite
from pruneopt.backends.tvm.target import parse
from pruneopt.errors import UsageError
from pruneopt.model import Model

TRIALS = 8  # schedules for each shape that is not known yet, as many as `tune` tries
LOADS = (
    3  # of two models that are compared: where weights come to lie in memory changes a time by a few percent
)
SECONDS = 1.0  # that they are timed in turns after each
ROUNDS = 7  # of these, at least


def ratio(a: Model, b: Model, library: Path, feeds: Feeds, threads: int) -> float:
    """Latency of `a` over that of `b`, in turns; both may have kernels of the library."""
    found = []
    for _ in range(LOADS):
        sessions = [Session(model, threads=threads, library=library, timed=True) for model in (b, a)]
        found.append(interleaved(sessions, [feeds, feeds], SECONDS, ROUNDS)[1].ratio_to_first)
    return statistics.median(found)


class Clock:
    """Times kernels of sparse layers, and whole models with them, on this machine; what is tuned is recorded."""

    def __init__(self, target: str = "host", threads: int = 1, cache: Path | None = None) -> None:
        self.target = parse(target)
        if self.target.triple:
            raise UsageError(
                f"latency is measured here, and kernels for {target} do not run here: give --sparsity, then "
                "`pruneopt tune` with --tracker"
            )
        self.threads = threads
        self.cache = cache

    def times(
        self, model: Model, feeds: Feeds, tell: Callable[[str], None] = lambda text: None
    ) -> dict[str, float]:
        """Milliseconds of the kernel of each sparse layer, by the name of what its node makes."""
        return {
            site.node.outputs[0].name: 1000 * group.best.seconds
            for group in self._tuned(model, feeds, tell)
            if group.best is not None
            for site in group.sites
        }

    def ratio(
        self, dense: Model, sparse: Model, feeds: Feeds, tell: Callable[[str], None] = lambda text: None
    ) -> float:
        """Latency of a sparse model with its kernels as a share of the dense one's, in turns."""
        chosen = tuning.plans(self._tuned(sparse, feeds, tell), self.target)
        with tempfile.TemporaryDirectory(prefix="pruneopt-") as folder:
            library = Path(folder) / "kernels.so"
            records = Records(self.cache)
            tuning.write_library(chosen, self.target, self.threads, library, records.objects)
            records.close()
            return ratio(rewrite(sparse, chosen), dense, library, feeds, self.threads)

    def _tuned(self, model: Model, feeds: Feeds, tell: Callable[[str], None]) -> list[tuning.Group]:
        shapes, _ = Observer(model).run(feeds)
        sizes = {name: [shape] for name, shape in shapes.items()}
        records = Records(self.cache)
        try:
            return tuning.tuned(model, sizes, self.target, records, TRIALS, self.threads, tell)[0]
        finally:
            records.close()
