"""Names of trials by what differs between them, ranges of numbers, durations, and text that is safe on a terminal or in
a spreadsheet."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any

# Unicode categories of what a terminal may obey or cannot show: control and format characters (escapes, changes of the
# writing direction), lone surrogates, and breaks of lines and paragraphs.
_CONTROL = ("Cc", "Cf", "Cs", "Zl", "Zp")


def short_names(overrides: Sequence[Sequence[str]]) -> list[str]:
    """One name per trial, such as ``r=8 lr=1e-3 temperature=0.0``.

    Overrides that all trials share are left out. A key is shortened to its last part where that is unique.
    """
    shared = set.intersection(*map(set, overrides)) if len(overrides) > 1 else set()
    own = [[o.lstrip("+") for o in trial if o not in shared and not o.startswith("hydra")] for trial in overrides]
    keys = {override.split("=", 1)[0] for trial in own for override in trial}
    last = Counter(map(_last_part, keys))

    def short(override: str) -> str:
        key, equals, value = override.partition("=")
        part = _last_part(key)
        return f"{part if last[part] == 1 else key}{equals}{value}"

    return [" ".join(map(short, trial)) or "defaults" for trial in own]


def _last_part(key: str) -> str:
    """``temperature`` of ``decoding.text_temperature``."""
    return key.rsplit(".", 1)[-1].removeprefix("text_")


def common_name(names: Sequence[str]) -> str:
    """The words that all names share: what the trials of one adapter have in common."""
    first, *rest = [name.split(" ") for name in names]
    return " ".join(word for word in first if all(word in other for other in rest)) or names[0]


def number_ranges(numbers: Sequence[int]) -> str:
    """``[0, 1, 2, 3, 8]`` as ``0-3, 8``."""
    runs = groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0])
    spans = [[number for _, number in run] for _, run in runs]
    return ", ".join(str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)


def first_line(message: object, otherwise: str = "") -> str:
    """The first line of a message or an error; ``otherwise`` where it is empty."""
    return (str(message).strip().splitlines() or [otherwise])[0]


def printable(text: str) -> str:
    """A text from outside as one line for a terminal: control characters are shown as Python's escapes of them."""
    if text.isprintable():
        return text
    return "".join(char.encode("unicode_escape").decode() if _is_control(char) else char for char in text)


def printable_lines(text: str) -> str:
    """As ``printable``, with the ends of lines as they are."""
    return "\n".join(map(printable, text.split("\n")))


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in _CONTROL


def duration(seconds: float | None) -> str:
    """A length of time in words; a dash when it is unknown."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")
"""A cell that begins with one of these is a formula to a spreadsheet: ``=HYPERLINK(...)`` must not run."""


def no_formula(cell: Any) -> Any:
    """A cell of a CSV, with a quote before text that a spreadsheet would evaluate.

    And before text that has such a quote itself, so that ``with_formula`` gives every text back as it was.
    """
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip("'").startswith(FORMULA) else cell


def with_formula(cell: str) -> str:
    """The text that ``no_formula`` made this cell of."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(FORMULA) else cell
