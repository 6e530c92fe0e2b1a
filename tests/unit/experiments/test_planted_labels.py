"""Planted labels are wrong, whatever the right ones say."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from experiments.planted_labels import KINDS, plant

TEXTS = ("明天下午三点开会", "好的", "请把空调调到26度", "我们周五再讨论")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_planted_text_is_the_original(seed: int) -> None:
    """Recordings may say the same, and texts of two characters have nothing to leave out."""
    lines: list[dict[str, Any]] = [
        {"id": f"u{place}", "conversation": [{"content": TEXTS[place % len(TEXTS)]}]} for place in range(80)
    ]
    planted = plant(lines, seed)
    assert Counter(one["kind"] for one in planted.values()) == KINDS
    assert all(one["right"] != one["wrong"] for one in planted.values())
    assert {line["id"]: line["conversation"][-1]["content"] for line in lines if line["id"] in planted} == {
        name: one["wrong"] for name, one in planted.items()
    }
