"""Every edit has one category; the report's ten pairs row by row."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from kimi_audio_ft.scoring import (
    CATEGORIES,
    ScoringOptions,
    categorised_edits,
    category_counts,
    normalise,
    number_accuracy,
    score,
)
from kimi_audio_ft.scoring.categories import Numbers
from kimi_audio_ft.scoring.error_rates import Alignment
from tests.unit.scoring.conftest import Pairs

OPTIONS = ScoringOptions(terms=("资产负债表", "二级市场"), names=("张勇", "吴耀飞"))

# By hand, from the published texts: what a row's edits are, in the words of the report's section on errors.
ROWS: dict[str, dict[str, int]] = {
    # 那 dropped; 资料 for 负债 in 资产负债表 (three edits); "，" dropped; 这个 added; 价值 heard as 压力
    "1": {"filler": 3, "domain_term": 3, "punctuation": 1, "other": 2},
    # 没 lost, ？ dropped
    "2": {"other": 1, "punctuation": 1},
    # 这 dropped; "，" and 这个就是 dropped; 理解 heard as 些有, 的 dropped
    "3": {"other": 4, "punctuation": 1, "filler": 4},
    # 张勇 heard as 阿勇, 吴耀飞 as 们要回; 对我只 as 我是不, 那个谁说你 added, 面 as 那, 有 as 从; "，" added
    "4": {"person_name": 4, "other": 10, "punctuation": 1},
    # 对 and "，" dropped; 在 heard as 资; OK dropped
    "5": {"filler": 1, "punctuation": 1, "other": 1, "abbreviation": 2},
    # OK added; 5G heard as 这个; 但, 的, 基, 本, 每, 个 heard as others
    "6": {"abbreviation": 4, "other": 6},
    # 的 added; LPL heard as LP
    "7": {"other": 1, "abbreviation": 1},
    "8": {},
    # 7000万 written as 七千万 (with the 的 that was added before it); 定了 heard as 另外
    "9": {"number_format": 4, "other": 2},
    # 永远 heard as 因为, 看 as 生产; "，" dropped
    "10": {"other": 4, "punctuation": 1},
}


@pytest.mark.parametrize("row", ROWS)
def test_the_reports_rows(report_pairs: Pairs, row: str) -> None:
    references, hypotheses = report_pairs
    assert category_counts(references[row], hypotheses[row], OPTIONS) == ROWS[row]


def test_the_reports_rows_add_up_to_its_strict_score(report_pairs: Pairs) -> None:
    counted = score(*report_pairs)
    edits = counted["substitutions"] + counted["deletions"] + counted["insertions"]
    assert sum(sum(row.values()) for row in ROWS.values()) == edits
    assert edits / counted["num_reference_chars"] == pytest.approx(0.180, abs=5e-4)


def test_without_lists_names_and_terms_are_other_errors(report_pairs: Pairs) -> None:
    references, hypotheses = report_pairs
    counts = category_counts(references["4"], hypotheses["4"], ScoringOptions())
    # 耀 and 要 sound the same
    assert counts == {"other": 13, "homophone_same_tone": 1, "punctuation": 1}


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        *(("好，的。", "好的！", {"punctuation": 2}), ("你好 吗", "你好吗", {"punctuation": 1})),
        ("没有。", "没。。", {"other": 1}),  # 有 was dropped, a mark stands there
        *(("请找吴总谈", "请找胡总谈", {"person_name": 1}), ("请找张勇谈", "请找张大勇谈", {"person_name": 1})),
        ("看资产负债表", "看资产负载表", {"domain_term": 1}),
        *(("我们用5G网", "我们用4G网", {"abbreviation": 1}), ("这个OK吗", "这个欧凯吗", {"abbreviation": 2})),
        *(("有12,000元", "有12000元", {"number_format": 1}), ("2024年的", "二零二四年的", {"number_format": 4})),
        *(("占50%的", "占百分之五十的", {"number_format": 5}), ("共1个人", "共一个人", {"number_format": 1})),
        ("在10:30到", "在十点三十分到", {"number_format": 5}),
        *(("给我300块", "给我500块", {"number_value": 1}), ("给我三百块", "给我五百块", {"number_value": 1})),
        *(("共7000万", "共700万", {"number_value": 1}), ("去那里", "二去那里", {"number_value": 1})),
        *(("嗯我们那走", "我们走", {"filler": 2}), ("我们走", "我们走啊", {"filler": 1}), ("对", "", {"filler": 1})),
        ("那些人", "人", {"other": 2}),  # 那 is no word of its own there
        *(("我在想", "我再想", {"homophone_same_tone": 1}), ("买东西", "卖东西", {"homophone_other_tone": 1})),
        ("银行", "银航", {"homophone_same_tone": 1}),  # one of its readings
        *(("看书", "吃书", {"other": 1}), ("", "嗯对，这个", {"filler": 4, "punctuation": 1}), ("  你好 ", "你好", {})),
    ],
)
def test_rules(reference: str, hypothesis: str, expected: dict[str, int]) -> None:
    assert category_counts(reference, hypothesis, OPTIONS) == expected


def test_the_rules_are_tried_in_order() -> None:
    terms = ScoringOptions(terms=("沪深300", "张总基金"), fillers=("好的",))
    assert category_counts("买沪深300", "买沪深500", terms) == {"domain_term": 1}
    assert category_counts("问张总基金", "问李总基金", terms) == {"person_name": 1}
    assert category_counts("好的走", "走", terms) == {"filler": 2}
    assert category_counts("好的走", "走", ScoringOptions()) == {"other": 2}


@pytest.mark.parametrize("seed", range(3))
def test_every_edit_of_the_strict_score_is_counted_once(seed: int) -> None:
    rng = random.Random(seed)
    pieces = ["张勇", "吴总", "7000万", "七千万", "5G", "OK", "资产", *"， 嗯那对在再é\u0301"]
    for _ in range(200):
        reference, hypothesis = ("".join(rng.choices(pieces, k=rng.randrange(0, 9))) for _ in range(2))
        counted = score({"a": reference}, {"a": hypothesis})
        found = category_counts(reference, hypothesis, OPTIONS)
        assert set(found) <= set(CATEGORIES)
        assert sum(found.values()) == counted["substitutions"] + counted["deletions"] + counted["insertions"]
        edits, alignment = categorised_edits(reference, hypothesis, OPTIONS)
        assert Counter(category for _, category in edits) == found
        assert (alignment.reference, alignment.hypothesis) == (normalise(reference), normalise(hypothesis))


def accuracy(reference: str, hypothesis: str) -> float | None:
    return number_accuracy({"a": reference}, [{"a": hypothesis}])


def test_a_number_is_right_when_its_value_stands_in_its_place() -> None:
    assert accuracy("有7000万", "有七千万") == 1
    assert accuracy("有7000万和300", "有七千万和500") == 0.5
    assert accuracy("3个和5个", "5个和3个") == 0
    assert accuracy("共1个", "共一个") == 1
    assert accuracy("有300", "") == 0
    assert accuracy("没有", "有500") is None


def test_a_missing_hypothesis_has_no_number_and_repeats_are_put_together() -> None:
    references = {"a": "有300", "b": "有500"}
    assert number_accuracy(references, [{"a": "有300"}]) == 0.5
    assert number_accuracy(references, [{"a": "有300"}, references]) == 0.75


def test_both_sides_agree_on_what_is_the_same() -> None:
    numbers = Numbers(Alignment("有1200元，8月", "有一千二百元，九月"))
    assert [numbers.same_in_hypothesis(span) for span in numbers.reference] == [True, False]
    assert [numbers.same_in_reference(span) for span in numbers.hypothesis] == [True, False]


def test_the_reports_numbers_were_all_heard(report_pairs: Pairs) -> None:
    """Ten numbers, 7000万 once written as 七千万; but 第二级 in 二级市场 counts as well, and stands everywhere."""
    references, hypotheses = report_pairs
    assert number_accuracy(references, [hypotheses]) == 1
