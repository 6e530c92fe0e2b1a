"""Options for other characters and other readings of the same; docs/normalisation.md shows what is true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from kimi_audio_ft.config.train import ScoringConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.scoring import NORMALISATION_VERSION, ScoringOptions, normalise, read_options
from kimi_audio_ft.scoring.normalise import spoken_rules
from kimi_audio_ft.scoring.trial_scores import score_repeats
from kimi_audio_ft.scoring.variants import converter

needs_opencc = pytest.mark.skipif(find_spec("opencc") is None, reason="the extra `traditional` is not installed")
PAGE = (Path(__file__).parents[3] / "docs" / "normalisation.md").read_text(encoding="utf-8")
OPTIONS = {
    "": spoken_rules(),
    """'scoring.fillers=["嗯","额","那个"]'""": spoken_rules(("嗯", "额", "那个")),
    "scoring.erhua=false": spoken_rules(erhua=False),
    "scoring.readings=false": spoken_rules(readings=False),
}


def examples() -> Iterator[tuple[str, str, str, bool]]:
    """Option, reference, transcript, and whether the page says that they are equal."""
    for line in re.findall(r"^\| (?!Reference|Option)(.+) \|$", PAGE, flags=re.MULTILINE):
        option, *rest = line.split(" | ") if line.startswith("`") else ("", *line.split(" | "))
        yield option.strip("`"), rest[0], rest[1], {"yes": True, "no": False}[rest[2]]


def test_the_page_is_true() -> None:
    shown = list(examples())
    assert len(shown) > 25 and {option for option, *_ in shown} == {*OPTIONS, "scoring.traditional=false"}
    for option, one, other, equal in shown:
        if option in OPTIONS:
            assert (normalise(one, OPTIONS[option]) == normalise(other, OPTIONS[option])) == equal, (option, one)
        if option and equal:
            assert normalise(one, "normalised") != normalise(other, "normalised"), "the option makes no difference"
    assert f"now {NORMALISATION_VERSION})" in PAGE


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("10:30", "10点30"), ("10:15", "十点一刻"), ("-5℃", "零下五摄氏度"), ("36.5°C", "摄氏三十六点五度")),
        *(("20公里/小时", "每小时二十公里"), ("RMB100", "一百元人民币"), ("3×10^8", "三乘以十的八次方")),
    ],
)
def test_other_readings_of_what_is_written(one: str, other: str) -> None:
    rules = spoken_rules(readings=False)
    assert normalise(one, rules) == normalise(other, rules)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("三点五", "三点五分"), ("10:30", "十点"), ("十点半天", "十点三十分天"), ("三块蛋糕", "三元蛋糕")),
        *(("15号线", "15日线"), ("-5度", "5度"), ("增长3.15", "增长三点十五"), ("零下", "负")),
    ],
)
def test_what_is_something_else_stays_so(one: str, other: str) -> None:
    rules = spoken_rules(readings=False)
    assert normalise(one, rules) != normalise(other, rules)


def test_scores_and_terms_under_them_and_records_without_them() -> None:
    references, heard = {"a": "10:30在A1室"}, [{"a": "十点半在a一室"}]
    plain = score_repeats(references, heard, options=ScoringOptions(terms=("十点半",)))
    told = score_repeats(references, heard, options=ScoringOptions(terms=("十点半",), readings=False))
    assert plain["normalisation"] == {"fillers": [], "erhua": True}, "records of before stay as they are"
    assert told["normalisation"] == {"fillers": [], "erhua": True, "readings": False}
    assert plain["normalised"]["cer"] > 0 == told["normalised"]["cer"] and plain["cer"] == told["cer"]
    assert [scores["terms"]["十点半"]["found"] for scores in (plain, told)] == [0, 1]


def test_without_the_package_the_option_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(ConfigError, match=r'scoring\.traditional=False.*opencc.*not installed.*"\.\[traditional\]"'):
        ScoringConfig(traditional=False)


@needs_opencc
def test_traditional_characters_count_as_simplified_ones() -> None:
    options = read_options(ScoringConfig(traditional=False, fillers=["那個"]))
    assert options.record["traditional"] == f"false ({converter()})"
    for option, one, other, equal in examples():
        if option == "scoring.traditional=false":
            assert (normalise(one, options.normalised) == normalise(other, options.normalised)) == equal
    for one, other in (("兩萬個", "20000个"), ("那個，走", "那个，走"), ("女兒", "女儿"), ("10點30分", "10:30")):
        assert normalise(one, options.normalised) == normalise(other, options.normalised)
    scores = score_repeats({"a": "臺灣5G"}, [{"a": "台湾5G"}], options=ScoringOptions(("嗯",), terms=("台湾",)))
    assert scores["terms"]["台湾"]["found"] == 0
