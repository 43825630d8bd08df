"""Fewer tokens behind some of the attentions, or smaller inputs, inside the graph; the signature stays.

1. `analysis/tokens.py` finds self-attentions and, behind each, a cut that all data with tokens passes through.
2. `schedule.py` chooses the cuts that become stages, and `amount.py` how many tokens each leaves.
3. `marking.py` opens `gaps.py` there, `walking.py` follows what is short; the analysis of the graph with gaps says
   what else hangs on the number of tokens. A site behind which something holds on to it (windows, fixed positions, a
   causal mask) is refused.
4. `writing.py` sets every size behind the gaps; `filling.py` fills them with `tome.py` or `topk.py`, told by `told.py`
   what attentions say of each token; `followed.py` gathers masks along and brings all tokens back.
5. `shadow.py` proves it: the original at full length, with merged tokens standing where they were.

Fewer rows and columns, frames or tokens of the inputs themselves are in `extent`.
"""

from pruneopt.passes.length.length import UNASKED, Length

__all__ = ["UNASKED", "Length"]
