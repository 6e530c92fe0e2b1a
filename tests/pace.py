"""How fast this machine is at the moment: tests bound processor time by multiples of it, never by seconds."""

from __future__ import annotations

import time


def pace() -> float:
    """Processor seconds of a fixed piece of plain Python: about 0.1 where nothing else runs, more on a slow machine."""
    begin = time.process_time()
    words: dict[str, int] = {}
    for number in range(200_000):
        word = str(number * 7919 % 50_021)
        words[word] = words.get(word, 0) + len(word)
    assert len(sorted(words)) == 50_021
    return time.process_time() - begin
