"""Every op of ONNX up to the newest opset that is read has a rule, or a reason why it needs none."""

from __future__ import annotations

import onnx
import pytest

from pruneopt.analysis.rules import known_ops
from pruneopt.frontends.onnx import OPSETS

# An op without a rule freezes what it touches, which is always sound.
LEFT_OUT = {
    "holds a body that works on a sequence": "SequenceMap",
    "becomes a constant when the model is loaded": "Constant",
    "makes or takes a sequence or an optional, which has no axes": (
        "ConcatFromSequence Optional OptionalGetElement OptionalHasElement SequenceAt SequenceConstruct "
        "SequenceEmpty SequenceErase SequenceInsert SequenceLength SplitToSequence"
    ),
    "works on text": "RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer",
    "decodes a file": "ImageDecoder",
}
REASONS = {op: reason for reason, ops in LEFT_OUT.items() for op in ops.split()}
SCHEMAS = sorted(
    {
        s.name
        for s in onnx.defs.get_all_schemas_with_history()
        if s.domain == "" and s.since_version <= OPSETS[-1]
    }
)


@pytest.mark.parametrize("op", SCHEMAS)
def test_standard_op_is_ruled_or_left_out(op: str) -> None:
    assert (("", op) in known_ops()) != (op in REASONS)


def test_reasons_name_real_ops() -> None:
    assert set(REASONS) <= set(SCHEMAS)


def test_other_onnx_domains_are_left_out() -> None:
    """Classical models and training: no axis of theirs is prunable width."""
    assert not {domain for domain, _ in known_ops()} - {"", "com.microsoft"}
