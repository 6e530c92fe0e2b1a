"""The two catalogues say the same things, and the page says nothing else."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import multirun_analysis
from kimi_audio_ft.config.train import RATES
from kimi_audio_ft.errors import ConfigError
from multirun_analysis.messages import CHINESE, ENGLISH, messages_in
from multirun_analysis.statistics.results import Overfitting, Reason
from multirun_analysis.sweep import Status

PACKAGE = Path(multirun_analysis.__file__).parent
TRIALS = (PACKAGE / "report" / "templates" / "sections" / "trials.html.j2").read_text(encoding="utf-8")
# Keys that are put together from data: f"param.{param}" and the like.
MADE = re.compile(r"(param|open|category|rate|script)\.")
MADE_KEYS = {
    *("list.and", "effort.finished", "effort.unfinished", "loss.train", "loss.val"),
    *(f"board.{rate}_hint" for rate in RATES),
    *(f"board.{fault}{hint}" for fault in ("empty", "truncated") for hint in ("", "_hint")),
    *(f"slices.{verdict}" for verdict in ("help", "hurt")),
    *(f"verdict.{kind}{reason}" for kind in ("", "settings.") for reason in Reason),
    *(f"overfit.{kind}" for kind in get_args(get_type_hints(Overfitting)["kind"])),
    *(f"status.{status}" for status in Status if status is not Status.COMPLETED),
    *(f"trials.{key}" for key in re.findall(r"\"(\w+)\"", "".join(re.findall(r"for key in (\(.*?\))", TRIALS)))),
}


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_a_translation_says_no_value_that_the_original_does_not_have() -> None:
    for key, text in CHINESE.texts.items():
        assert fields(text) - fields(ENGLISH.texts[key]) <= {"n"}, key
        assert fields(ENGLISH.texts[key]) - fields(text) <= {"n"}, key


def test_every_text_is_used() -> None:
    sources = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".j2") and "messages" not in path.parts]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    unused = [key for key in ENGLISH.texts if f'"{key}"' not in code and f"'{key}'" not in code]
    assert [key for key in unused if key not in MADE_KEYS and not MADE.match(key)] == []


def test_every_named_text_exists() -> None:
    used = set()
    for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.j2")]:
        used |= set(re.findall(r"""say\(["']([a-z_.A-Z]+)["'][,)]""", path.read_text(encoding="utf-8")))
    assert used and used <= set(ENGLISH.texts)


def test_every_rate_that_can_rank_has_its_name() -> None:
    assert {rate: ENGLISH.ranking_by(rate).rate for rate in RATES} == RATES
    assert CHINESE.ranking_by("normalised_cer")("tile.best") == "最佳 规范化 CER"
    assert ENGLISH("tile.best") == "best CER"


def test_singular_and_plural() -> None:
    assert ENGLISH("effort.finished", n=1) == "1 trial finished"
    assert ENGLISH("effort.finished", n=2) == "2 trials finished"
    assert CHINESE("effort.finished", n=1) == "1 个试验已完成"


def test_things_are_joined_as_the_language_does() -> None:
    assert ENGLISH.listed(["a", "b", "c"]) == "a, b and c"
    assert CHINESE.listed(["a", "b", "c"]) == "a、b和c"
    assert ENGLISH.listed([]) == "" and ENGLISH.listed(["a"]) == "a"


def test_a_trials_name_stands_without_spaces_in_a_chinese_verdict() -> None:
    """It begins and ends in Chinese, unlike that of a setting of several seeds."""
    seeds = ("verdict.settings.", "verdict.needed_seeds", "verdict.needed_beyond_seeds")
    of_trials = {
        key: text for key, text in CHINESE.texts.items() if key.startswith("verdict.") and not key.startswith(seeds)
    }
    spaced = re.compile(r"[一-鿿] \{(best|choice|first|second)\}|\{(best|choice|first|second)\} [一-鿿]")
    assert [key for key, text in of_trials.items() if spaced.search(text)] == []


def test_another_language_is_refused() -> None:
    with pytest.raises(ConfigError, match="language='fr': the report is written in en or zh"):
        messages_in("fr")
