from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kimi_audio_ft.scoring.spans import Span, latin_spans, number_spans, titled_names, word_spans


def words_of(text: str, spans: list[Span]) -> list[str]:
    return [text[start:end] for start, end in spans]


@pytest.mark.parametrize(
    ("spans", "text", "found"),
    [
        (number_spans, "在7000万的层面还了1000万", ["7000万", "1000万"]),
        (number_spans, "一点三亿和2.5亿，12,000元", ["一点三亿", "2.5亿", "12,000"]),
        (number_spans, "百分之五十，50%，五分之一", ["百分之五十", "50%", "五分之一"]),
        (number_spans, "2024年8月15号10:30", ["2024年", "8", "15", "10:30"]),
        (number_spans, "三个人", ["三"]),
        (number_spans, "一些人万一，十分感谢", []),
        (number_spans, "用5G和K12", []),
        (number_spans, "第二季度。", ["二"]),
        (latin_spans, "用5G和LPL的OK", ["5G", "LPL", "OK"]),
        (latin_spans, "T+1，K12，don't stop", ["T+1", "K12", "don't", "stop"]),
        (latin_spans, "7000万", []),
        (titled_names, "找吴总和张勇老师", ["吴总", "张勇老师"]),
        (titled_names, "小王，老张", ["小王", "老张"]),
        (titled_names, "小王国的王总是", []),
        (titled_names, "欧阳教授", ["欧阳教授"]),
        (titled_names, "我跟张勇去", []),  # without a title or a list, no rule finds it
    ],
)
def test_numbers_latin_words_and_names_with_a_title(spans: Callable[[str], list[Span]], text: str, found: Any) -> None:
    assert words_of(text, spans(text)) == found


def test_words_of_a_list_are_whole_and_the_longest_wins() -> None:
    text = "AI在MAIN里，ai负债，资产负债表和负债"
    found = word_spans(text, ["AI", "负债", "资产负债表", "(", "负债"])
    assert words_of(text, found) == ["AI", "ai", "负债", "资产负债表", "负债"]
    assert word_spans(text, []) == []
