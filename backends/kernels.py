"""How long each kernel of a model takes, in the place where it runs: fused, laid out and cached as it will be."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruneopt.arrays import Feeds
from pruneopt.backends.cores import bound
from pruneopt.backends.session import Session
from pruneopt.backends.turns import SETTLED
from pruneopt.model import Model

SECONDS = 0.2  # spent on a model, between LEAST and MOST runs
LEAST, MOST = 3, 15
SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class Kernels:
    """Where the time of one run goes, in milliseconds, what disturbs it left out.

    Attributes:
        times: (name, ms) of every kernel in the order in which they run. A kernel is named after the node that it was
            made from, or its output; those that the runtime adds have names of their own. Each is the least of
            several runs, and a kernel that runs more than once per run counts as often.
        whole: of the whole run, when kernels are not timed.
        own: share of the kernels' times that is the program's own, in (0, 1]: kernels are timed by the clock on the
            wall, and on a busy machine other programs take of long ones. The times are scaled by it.
    """

    times: list[tuple[str, float]]
    whole: float
    own: float


def kernel_times(model: Model, feeds: Feeds, threads: int = 1, seconds: float = SECONDS) -> Kernels:
    """Time a model and its kernels, each for about `seconds`."""
    whole = min(_repeat(Session(model, threads=threads, timed=True), feeds, seconds))
    with tempfile.TemporaryDirectory(prefix="pruneopt-") as folder:
        session = Session(model, threads=threads, timed=True, profile=os.path.join(folder, "kernels"))
        times = _repeat(session, feeds, seconds)
        events = json.loads(Path(session.profiled()).read_text())
    kernels = _kernels(events, 1 + len(times))
    inside = sum(ms for _, ms in kernels)
    own = min(1.0, min(times) / inside) if inside else 1.0
    return Kernels([(name, ms * own) for name, ms in kernels], whole, own)


def _repeat(session: Session, feeds: Feeds, seconds: float) -> list[float]:
    """Milliseconds of each of as many runs as there is time for."""
    times: list[float] = []
    session.run(feeds)  # the first run sets memory up
    settling = SETTLED if session.cores else 0.0
    with bound(session.cores):
        while (
            len(times) < LEAST
            or sum(times) < 1000 * settling
            or (len(times) < MOST and sum(times) < 1000 * seconds)
        ):
            start = session.clock()
            session.run(feeds)
            times.append(1000 * (session.clock() - start))
    return times


def _kernels(events: list[dict[str, Any]], runs: int) -> list[tuple[str, float]]:
    found: dict[tuple[str, str], list[float]] = {}
    for event in events:
        name = str(event["name"])
        if event.get("cat") == "Node" and name.endswith(SUFFIX):
            key = name.removesuffix(SUFFIX), str(event["args"].get("node_index"))
            found.setdefault(key, []).append(event["dur"] / 1000)
    return [(name, min(times) * max(1, len(times) // runs)) for (name, _), times in found.items()]
