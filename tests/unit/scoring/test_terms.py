from __future__ import annotations

from pathlib import Path

import pytest

from kimi_audio_ft.config.train import ScoringConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.scoring import NORMALISATIONS, ScoringOptions, TermScore, read_options, term_scores


def test_recall_and_precision_of_every_term() -> None:
    references = {"a": "资产负债表和LPL", "b": "二级市场二级市场", "c": "没有"}
    hypotheses = {"a": "资产 负债表和lp", "b": "二级市场", "c": "二级市场的LPL"}
    scores = term_scores(references, [hypotheses], ["资产负债表", "LPL", "二级市场", "基金"])
    assert scores["资产负债表"] == TermScore(1, 1, 1)
    assert scores["LPL"] == TermScore(1, 1, 0)
    assert scores["二级市场"] == TermScore(2, 2, 1)
    assert (scores["二级市场"].recall, scores["二级市场"].precision) == (0.5, 0.5)
    assert (scores["基金"].recall, scores["基金"].precision) == (None, None)


def test_repeats_are_summed_and_missing_hypotheses_find_nothing() -> None:
    references = {"a": "用7000万", "b": "看MAIN里"}
    scores = term_scores(references, [{"a": "用七千万"}, {}], ["7000万", "AI"])
    assert scores == {"7000万": TermScore(2, 1, 1), "AI": TermScore(0, 0, 0)}
    assert scores["7000万"].recall == 0.5 and scores["7000万"].precision == 1


def test_of_overlapping_terms_the_longer_one_counts() -> None:
    scores = term_scores({"a": "资产负债表"}, [{"a": "负债表"}], ["负债表", "资产负债表"])
    assert scores == {"负债表": TermScore(0, 1, 0), "资产负债表": TermScore(1, 0, 0)}


def test_numbers_in_terms_are_found_however_they_are_written() -> None:
    references = {"a": "我们的5G和T+1交易", "b": "用 iPhone 15 看G20", "c": "GPT-4"}
    hypotheses = {"a": "我们的五G和T加一交易", "b": "用iPhone15看G二十", "c": "gpt四"}
    terms = ["5G", "T+1", "iPhone 15", "GPT-4", "G2"]
    scores = term_scores(references, [hypotheses], terms)
    assert scores == {term: TermScore(1, 1, 1) for term in terms[:4]} | {"G2": TermScore(0, 0, 0)}


def test_letters_that_fold_to_two_are_found() -> None:
    scores = term_scores({"a": "die Straße"}, [{"a": "die STRASSE"}], ["Strasse"])
    assert scores == {"Strasse": TermScore(1, 1, 1)}


def test_no_terms() -> None:
    assert term_scores({"a": "好"}, [{"a": "好"}], []) == {}


# ---


def test_words_of_files_are_one_a_line(tmp_path: Path) -> None:
    terms = tmp_path / "terms.txt"
    terms.write_text("\ufeff资产负债表\r\n\n# a remark\n LPL \nLPL\n", encoding="utf-8")
    config = ScoringConfig(fillers=["嗯"], erhua=False, terms=str(terms))
    assert read_options(config) == ScoringOptions(("嗯",), False, ("资产负债表", "LPL"), ())


def test_defaults_are_the_named_normalisation() -> None:
    options = read_options(ScoringConfig())
    assert options == ScoringOptions() and options.normalised == NORMALISATIONS["normalised"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"\n#only\n", "holds no word"), ("中".encode("gbk"), r"is not UTF-8 \(byte 0\)")],
)
def test_files_without_words_are_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"scoring\.names='.*names\.txt': {problem}"):
        read_options(ScoringConfig(names=str(path)))


def test_a_file_that_vanished_is_told(tmp_path: Path) -> None:
    path = tmp_path / "terms.txt"
    path.write_text("词", encoding="utf-8")
    config = ScoringConfig(terms=str(path))
    path.unlink()
    with pytest.raises(ConfigError, match=r"scoring\.terms='.*terms\.txt': must name a text file.*No such file"):
        read_options(config)
