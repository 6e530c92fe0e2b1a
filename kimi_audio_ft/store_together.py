"""Several products of the store that are made in one go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kimi_audio_ft.store import find, find_or_make, product_path

AT_ONCE = 64
"""Products made in one go, at most: each is a held lock, and a few frames of this process's stack."""


def find_or_make_all(
    kind: str,
    signatures: Sequence[str],
    make: Callable[[Mapping[str, Path]], Mapping[str, dict[str, Any]]],
) -> dict[str, Path]:
    """Folders of finished products by signature; those that are not there are made together.

    Args:
        make: is given the empty folders of what is missing, by signature, fills them all and returns each one's facts.
            It is not called when nothing is missing, and more than once when more than ``AT_ONCE`` are.

    All locks are taken in the order of the signatures, so that processes which ask for some of the same products never
    wait for each other in a circle. Under the locks every product is looked for again. When ``make`` fails, or its
    process dies, none of them is there.
    """
    missing = sorted({name for name in signatures if find(kind, name) is None})
    for start in range(0, len(missing), AT_ONCE):
        _make_all(kind, missing[start : start + AT_ONCE], make)
    return {name: product_path(kind, name) for name in signatures}


def _make_all(
    kind: str, signatures: Sequence[str], make: Callable[[Mapping[str, Path]], Mapping[str, dict[str, Any]]]
) -> None:
    """Each product is made inside the making of the one before it; the innermost makes the contents of all."""
    drafts: dict[str, Path] = {}
    facts: dict[str, dict[str, Any]] = {}

    def go_on(rest: Sequence[str]) -> None:
        if not rest:
            if drafts:
                facts.update(make(drafts))
            return
        first, others = rest[0], rest[1:]

        def inside(folder: Path) -> dict[str, Any]:
            drafts[first] = folder
            go_on(others)
            return facts[first]

        _, reused = find_or_make(kind, first, inside)
        if reused:
            go_on(others)

    go_on(signatures)
