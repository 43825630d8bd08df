"""A short run: random graphs, random masks. The long one is `python -m tests.fuzz --examples 20000`."""

from __future__ import annotations

from random import Random

from hypothesis import HealthCheck, event, given, settings, target
from hypothesis import strategies as st

from tests.fuzz.checks import Verdict, check
from tests.fuzz.graphs import Case, build, cases

EXAMPLES = 150
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


def test_random_graphs_at_random_masks() -> None:
    verdicts: list[Verdict] = []

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=QUIET)
    @given(cases())
    def run(drawn: tuple[Case, Random]) -> None:
        verdict = check(*drawn)
        event("pruned" if verdict.pruned else "nothing to prune")
        event("under a statistic" if verdict.coupled else "exact")
        target(float(verdict.pruned), label="atoms pruned")
        verdicts.append(verdict)

    run()
    assert sum(v.pruned > 0 for v in verdicts) > 0.6 * len(verdicts), "too few graphs have anything to prune"
    assert sum(v.coupled > 0 for v in verdicts) > 0.05 * len(verdicts), "too few statistics are pruned"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_a_graph_is_the_same_each_time(seed: int) -> None:
    assert build(Random(seed)).proto == build(Random(seed)).proto
