from __future__ import annotations

import pytest

from kimi_audio_ft.scoring.error_rates import is_over_generated


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        # up to 1.5 x 10 + 10 characters
        ("abcdefghij", "abcdefghij" + "零一二三四五六七八九甲乙丙丁戊", False),
        ("abcdefghij", "abcdefghij" + "零一二三四五六七八九甲乙丙丁戊己", True),
        ("好" * 10, "好" * 25, True),  # 25 are a loop that the reference does not hold
        ("", "0123456789", False),
        ("", "01234567890", True),
        ("我们今天开会", "我们今天开会开会开会开会开会", True),
        ("我们今天开会", "我们今天开会开会开会开会", False),  # four times in a row
        ("哈哈", "哈哈哈哈哈", False),  # five characters only
        ("谢谢" * 5, "谢谢" * 5 + "了", False),  # it was said like that
        ("谢" * 12 + "了", "谢" * 12, False),  # shorter than the reference
        ("一二三四五六七八九十" * 2, "", False),
    ],
)
def test_much_longer_or_running_in_a_circle(reference: str, hypothesis: str, expected: bool) -> None:
    assert is_over_generated(reference, hypothesis) == expected


def test_a_loop_may_hold_line_breaks() -> None:
    assert is_over_generated("你好今天天气", "\n好" * 6)
