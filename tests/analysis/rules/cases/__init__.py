"""One small node per op (and per form that its rule tells apart)."""

from __future__ import annotations

from tests.analysis.rules.cases.attention import ATTENTION
from tests.analysis.rules.cases.contraction import CONTRACTION, RECURRENT
from tests.analysis.rules.cases.elementwise import ELEMENTWISE
from tests.analysis.rules.cases.movement import INDEXING, MOVEMENT
from tests.analysis.rules.cases.quantised import QUANTISED
from tests.analysis.rules.cases.rare import FUSED, SPATIAL
from tests.analysis.rules.cases.statistics import NORMS, REDUCTION

CASES = [
    *ELEMENTWISE,
    *MOVEMENT,
    *INDEXING,
    *CONTRACTION,
    *NORMS,
    *REDUCTION,
    *RECURRENT,
    *QUANTISED,
    *ATTENTION,
    *FUSED,
    *SPATIAL,
]
