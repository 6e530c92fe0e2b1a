from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.config.train import ScoringConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.scoring import NORMALISATIONS, ScoringOptions, read_options, term_scores


def counted(references: dict[str, str], hypotheses: list[dict[str, str]], terms: list[str]) -> dict[str, Any]:
    """Occurrences in references, in hypotheses and in both, by term."""
    scores = term_scores(references, hypotheses, terms)
    return {term: (row["in_references"], row["in_hypotheses"], row["found"]) for term, row in scores.items()}


def test_recall_and_precision_of_every_term() -> None:
    references = {"a": "资产负债表和LPL", "b": "二级市场二级市场", "c": "没有"}
    hypotheses = {"a": "资产 负债表和lp", "b": "二级市场", "c": "二级市场的LPL"}
    scores = term_scores(references, [hypotheses], ["资产负债表", "LPL", "二级市场", "基金"])
    assert list(scores["资产负债表"].values()) == [1, 1, 1, 1.0, 1.0]
    assert list(scores["LPL"].values()) == [1, 1, 0, 0.0, 0.0]
    assert list(scores["二级市场"].values()) == [2, 2, 1, 0.5, 0.5]
    assert list(scores["基金"].values()) == [0, 0, 0, None, None]


def test_repeats_are_summed_and_missing_hypotheses_find_nothing() -> None:
    references = {"a": "用7000万", "b": "看MAIN里"}
    scores = counted(references, [{"a": "用七千万"}, {}], ["7000万", "AI"])
    assert scores == {"7000万": (2, 1, 1), "AI": (0, 0, 0)}


def test_of_overlapping_terms_the_longer_one_counts() -> None:
    scores = counted({"a": "资产负债表"}, [{"a": "负债表"}], ["负债表", "资产负债表"])
    assert scores == {"负债表": (0, 1, 0), "资产负债表": (1, 0, 0)}
    assert term_scores({"a": "好"}, [{"a": "好"}], []) == {}


def test_numbers_in_terms_are_found_however_they_are_written() -> None:
    references = {"a": "我们的5G和T+1交易", "b": "用 iPhone 15 看G20", "c": "GPT-4"}
    hypotheses = {"a": "我们的五G和T加一交易", "b": "用iPhone15看G二十", "c": "gpt四"}
    terms = ["5G", "T+1", "iPhone 15", "GPT-4", "G2"]
    scores = counted(references, [hypotheses], terms)
    assert scores == dict.fromkeys(terms[:4], (1, 1, 1)) | {"G2": (0, 0, 0)}


def test_letters_that_fold_to_two_are_found() -> None:
    scores = counted({"a": "die Straße"}, [{"a": "die STRASSE"}], ["Strasse"])
    assert scores == {"Strasse": (1, 1, 1)}


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
