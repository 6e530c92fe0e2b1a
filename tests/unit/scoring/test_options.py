from __future__ import annotations

from pathlib import Path

import pytest

from kimi_audio_ft.config.train import ScoringConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.scoring import NORMALISATIONS, ScoringOptions, read_options


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
