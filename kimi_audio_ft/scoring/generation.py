"""Hypotheses that go on when the speech is over: a known failure of autoregressive transcribers."""

from __future__ import annotations

import regex

LENGTH_FACTOR, LENGTH_MARGIN = 1.5, 10
# The same 1 to 20 characters at least five times in a row ...
_LOOP = regex.compile(r"(.{1,20}?)\1{4,}", regex.DOTALL)
# ... which together are at least so many: 哈哈哈哈哈 is speech.
_LOOP_CHARS = 10


def is_over_generated(reference: str, hypothesis: str) -> bool:
    """Whether a hypothesis is much longer than what was said, or runs in a circle.

    It is when it has more than 1.5 times the reference's characters plus 10; or when it is longer than the reference
    and repeats 1 to 20 characters five times in a row or more, over at least 10 characters that the reference does
    not hold in the same way.
    """
    if len(hypothesis) <= len(reference):
        return False
    if len(hypothesis) > LENGTH_FACTOR * len(reference) + LENGTH_MARGIN:
        return True
    return any(len(loop[0]) >= _LOOP_CHARS and loop[0] not in reference for loop in _LOOP.finditer(hypothesis))
