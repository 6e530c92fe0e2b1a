from __future__ import annotations

from kimi_audio_ft.scoring import number_accuracy
from kimi_audio_ft.scoring.categories import Numbers
from kimi_audio_ft.scoring.error_rates import Alignment
from tests.unit.scoring.conftest import Pairs


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
