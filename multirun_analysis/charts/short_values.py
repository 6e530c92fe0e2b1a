"""Short labels of a swept parameter's values: long lists, mappings, texts and paths by what tells them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from multirun_analysis.compare import Comparison
from multirun_analysis.messages import Messages
from multirun_analysis.params import identity
from multirun_analysis.words import adapter_name, show, shown

MOST_LETTERS = 24
LEAST_OF_KEY = 5
CUT = "…"


def short_values(param: str, values: list[Any], say: Messages) -> dict[str, str]:
    """The labels by ``identity`` of their values: as written where that is short, and different for different values.

    ``[q_proj, k_proj, v_proj, o_proj, up_proj]`` beside ``[q_proj, v_proj]`` becomes ``[k_proj, o_proj, …]``.
    """
    written = {identity(value): shown(param, value, say) for value in values}
    long = {identity(value): value for value in values if len(written[identity(value)]) > MOST_LETTERS}
    labels = written | {key: _shortened(value, values) for key, value in long.items()}
    times = Counter(labels.values())
    seen: Counter[str] = Counter()
    for key, label in labels.items():
        if times[label] > 1:
            seen[label] += 1
            labels[key] = f"{label} ({seen[label]})"
    return labels


def adapter_names(comparison: Comparison, say: Messages) -> dict[str, str]:
    """The adapters' short names by their signatures."""
    labels = {param: short_values(param, comparison.distinct(param), say) for param in comparison.trained}
    return {one.signature: adapter_name(one, comparison, say, labels) for one in comparison.adapters}


def _shortened(value: Any, values: list[Any]) -> str:
    """A long value without what it shares with all the others."""
    if isinstance(value, str):
        return _middle(value, [one for one in values if isinstance(one, str)])
    parts = _parts(value)
    alike = [set(_parts(one)) for one in values if isinstance(one, type(value))]
    shared_by = Counter(part for one in alike for part in one)
    own = sorted((part for part in parts if shared_by[part] < len(alike)), key=shared_by.__getitem__) or parts
    kept: list[str] = []
    for part in own:
        if len(", ".join([*kept, part])) > MOST_LETTERS - 5:
            break
        kept.append(part)
    kept = kept or [(_cut_pair if isinstance(value, dict) else _cut)(own[0], MOST_LETTERS - 5)]
    inside = ", ".join([*kept, *([CUT] if len(kept) < len(parts) else [])])
    return f"{{{inside}}}" if isinstance(value, dict) else f"[{inside}]"


def _parts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{key}: {show(item)}" for key, item in value.items()]
    return [show(item) for item in value] if isinstance(value, list | tuple) else [show(value)]


def _middle(text: str, texts: list[str]) -> str:
    """A text from the word on where it differs from the others, to the word where it ends to."""
    others = list(dict.fromkeys(texts))
    start = _alike(others)
    end = len(text) - _alike([one[start:][::-1] for one in others])
    for _ in range(MOST_LETTERS // 2):
        start -= start > 0 and _is_of_word(text[start - 1])
        end += end < len(text) and _is_of_word(text[end])
    if not text[start:end].strip():  # the others have all of it: its last letters up to there, or its first
        start, end = max(0, start - MOST_LETTERS + 2), start or MOST_LETTERS - 1
    before, after = CUT if start else "", CUT if end < len(text) else ""
    shown = before + _cut(text[start:end], MOST_LETTERS - len(before + after))
    return shown if shown.endswith(CUT) else shown + after


def _cut_pair(pair: str, most: int) -> str:
    """A key and its value; a long key is cut rather than the value."""
    key, colon, value = pair.partition(": ")
    return _cut(_cut(key, max(LEAST_OF_KEY, most - len(colon + value))) + colon + value, most)


def _alike(texts: Sequence[str]) -> int:
    """How many letters several texts begin with alike."""
    same = (len(set(letters)) == 1 for letters in zip(*texts, strict=False))
    return len(list(takewhile(bool, same))) if len(texts) > 1 else 0


def _is_of_word(letter: str) -> bool:
    return letter.isalnum() or letter in "_-"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}{CUT}"
