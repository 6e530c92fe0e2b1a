"""How fast this machine is at the moment: tests bound processor time by multiples of it, never by seconds."""

from __future__ import annotations

import time


def pace() -> float:
    """Processor seconds of a fixed piece of plain Python, the longest of three times: about 0.1 on an idle machine.

    Other processes make it two or three times as long, and what is measured beside it too, though not at one moment:
    a bound is several times what was found.
    """
    return max(_once() for _ in range(3))


def _once() -> float:
    begin = time.process_time()
    words: dict[str, int] = {}
    for number in range(200_000):
        word = str(number * 7919 % 50_021)
        words[word] = words.get(word, 0) + len(word)
    assert len(sorted(words)) == 50_021
    return time.process_time() - begin
