"""Self-attentions with cuts behind them, by token axis; why there are no more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pruneopt.analysis.cuts import Cuts, Refusal, Site
from pruneopt.analysis.infer import analyse
from pruneopt.analysis.tokens import Tokens, same
from pruneopt.errors import PruneoptError
from pruneopt.frontends.sizes import probe_sizes
from pruneopt.frontends.synthetic import synthetic
from pruneopt.model import Model
from pruneopt.passes.context import Context
from pruneopt.passes.length.scores import heads_of

LEAST_TOKENS = 8  # fewer are not worth a stage


def long_enough(model: Model, context: Context) -> Context:
    """The context, with longer synthetic inputs where those observed hold only a few tokens (raw audio)."""
    found = Tokens(analyse(model, context.observation(model))).attentions
    if not found or max(max(a.tokens.size) for a in found) >= LEAST_TOKENS:
        return context
    for small, large in probe_sizes(model):
        try:
            feeds = synthetic(model, small, context.seed), synthetic(model, large, context.seed + 1)
            other = Context(
                context.backend,
                feeds,
                context.calibration,
                context.keep,
                context.seed,
                context.threads,
                context.progress,
            )
            found = Tokens(analyse(model, other.observation(model))).attentions
        except PruneoptError:
            continue
        if found and max(min(a.tokens.size) for a in found) >= LEAST_TOKENS:
            return other
    return context


def find_sites(tokens: Tokens, context: Context) -> tuple[list[list[Site]], list[Refusal]]:
    """Sites by token axis, in order, and why there are no more."""
    groups: list[list[Site]] = []
    refused: list[Refusal] = []
    cuts = Cuts(tokens)
    for attention in tokens.attentions:
        if attention.is_self and min(attention.tokens.size) > 1:
            found = _usable(tokens, cuts.site(attention))
            if isinstance(found, Refusal):
                refused.append(found)
            else:
                _sort_in(groups, found)
    causal = _causal(tokens, groups, context)
    why = "its attention is causal: every position is an output of its own"
    left = [group for group in groups if group[0].attention.probabilities not in causal]
    return left, [*refused, *(Refusal(group[0].tensor, why) for group in groups if group not in left)]


def _usable(tokens: Tokens, found: Site | Refusal) -> Site | Refusal:
    """A site, or why it is none."""
    if isinstance(found, Refusal):
        return found
    if max(found.attention.tokens.size) < LEAST_TOKENS:
        return Refusal(found.tensor, f"has only {found.attention.tokens} tokens")
    try:
        heads_of(tokens, found.attention, found)
    except PruneoptError as error:
        return Refusal(found.tensor, str(error))
    return found


def _sort_in(groups: list[list[Site]], site: Site) -> None:
    """To the group of its tokens whose last site is in front of it; a cut that is known already counts once."""
    if any(each.tensor == site.tensor for group in groups for each in group):
        return
    for group in groups:
        last = group[-1]
        if same(last.attention.tokens, site.attention.tokens) and set(site.behind) < set(last.behind):
            group.append(site)
            return
    groups.append([site])


def _causal(tokens: Tokens, groups: Sequence[Sequence[Site]], context: Context) -> set[str]:
    """Probabilities of which the first query sees no other token than itself, as measured in one run."""
    names = list(dict.fromkeys(group[0].attention.probabilities for group in groups))
    if not names:
        return set()
    session = context.session(tokens.analysis.model, names, optimize=False)
    found = session.run(tokens.analysis.seen.feeds[-1])
    return {n for n, p in found.items() if n in names and p.shape[-1] > 1 and not np.any(p[..., 0, 1:])}


def sentence(refused: Sequence[Refusal]) -> str:
    if not refused:
        return "length: no softmax in this model is that of a self-attention over tokens, so there are none to remove"
    return f"length: no tokens can be removed; {refused[0]}" + (
        f" (and {len(refused) - 1} more)" if refused[1:] else ""
    )
