"""The records of a trial: means over repeats, one row per utterance, and failures in the place of scores."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.files import write_json
from kimi_audio_ft.scoring import CATEGORIES, NORMALISATION_VERSION, ScoringOptions
from kimi_audio_ft.scoring.trial_scores import TrialFacts, score_repeats, scores_by_set, utterance_rows, write_failure

REFERENCES = {"a": "今天天气", "b": "七千万元整好"}
TWO_WRONG = {"a": "今天大气", "b": "七千万元整"}


def test_one_decoding_has_no_spread() -> None:
    scores = score_repeats(REFERENCES, [TWO_WRONG])
    assert scores["cer"] == pytest.approx(2 / 10)
    assert (scores["substitutions"], scores["deletions"], scores["insertions"]) == (1, 1, 0)
    assert scores["cer_repeats"] == [scores["cer"]] and scores["cer_std"] == 0.0
    assert scores["num_references"] == 2 and scores["num_reference_chars"] == 10


def test_repeats_are_averaged() -> None:
    scores = score_repeats(REFERENCES, [REFERENCES, TWO_WRONG, {}])
    assert scores["cer_repeats"] == pytest.approx([0.0, 0.2, 1.0])
    assert scores["cer"] == pytest.approx(0.4)
    assert scores["cer_std"] == pytest.approx(statistics.stdev([0.0, 0.2, 1.0]))
    assert scores["deletions"] == pytest.approx((0 + 1 + 10) / 3)
    assert scores["exact_match"] == pytest.approx(1 / 3)
    assert scores["empty_outputs"] == pytest.approx(2 / 3)
    assert scores["num_references"] == 2 and scores["num_reference_chars"] == 10
    assert scores["normalised"]["cer"] == pytest.approx(0.4)


def test_sets_are_scored_by_themselves() -> None:
    sets = {"a": "x", "b": "y"}
    found = scores_by_set(sets, REFERENCES, [REFERENCES, TWO_WRONG, {"b": "七千万元整好"}])
    assert list(found) == ["x", "y"]
    assert found["x"]["cer"] == pytest.approx((0 + 0.25 + 1) / 3) and found["y"]["cer"] == pytest.approx((1 / 6) / 3)
    assert [one["num_references"] for one in found.values()] == [1, 1]
    assert found["y"]["normalised_cer"] == pytest.approx((1 / 6) / 3)


def test_every_reference_has_a_row_in_every_repeat() -> None:
    around = {
        "a": {"audio": "/a.wav", "recording": "meeting", "seconds": 1.5},
        "b": {"audio": None, "recording": "b", "seconds": None},
    }
    rows = utterance_rows(REFERENCES, [TWO_WRONG, {"a": "今天天气"}], around)
    assert [(row["id"], row["repeat"]) for row in rows] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert [row["cer"] for row in rows] == pytest.approx([1 / 4, 1 / 6, 0.0, 1.0])
    texts = {"id": "a", "repeat": 0, "reference": "今天天气", "hypothesis": "今天大气", "cer": 0.25}
    counts = {"edits": 1, "chars": 4, "normalised_edits": 1, "normalised_chars": 4, "categories": {"other": 1}}
    assert rows[0] == texts | around["a"] | counts
    assert rows[3]["hypothesis"] == "" and rows[3]["recording"] == "b" and rows[3]["seconds"] is None
    assert rows[3]["edits"] == rows[3]["chars"] == 6
    assert rows[3]["categories"] == {"number_value": 3, "other": 3}
    assert json.loads(json.dumps(rows)) == rows


def test_categories_add_up_and_are_means_over_repeats() -> None:
    scores = score_repeats(REFERENCES, [REFERENCES, TWO_WRONG])
    assert set(scores["categories"]) == set(CATEGORIES)
    assert sum(scores["categories"].values()) == pytest.approx(1.0)
    assert scores["categories"]["other"] == 1.0
    assert score_repeats(REFERENCES, [TWO_WRONG])["categories"]["other"] == 2


def test_options_act_on_the_normalised_column_and_the_categories() -> None:
    references, hypotheses = {"a": "嗯我在哪儿看5G"}, [{"a": "我在哪看5G"}]
    plain = score_repeats(references, hypotheses)
    assert plain["normalised"]["cer"] > 0 and plain["normalisation"] == {"fillers": [], "erhua": True}
    assert plain["word_lists"] == {"terms": [], "names": []}
    options = ScoringOptions(fillers=("嗯",), erhua=False, terms=("5G",), names=("吴总",))
    scores = score_repeats(references, hypotheses, options=options)
    assert scores["cer"] == plain["cer"] and scores["normalised"]["cer"] == 0
    assert scores["normalisation"] == {"fillers": ["嗯"], "erhua": False}
    assert scores["word_lists"] == {"terms": ["5G"], "names": ["吴总"]}
    assert scores["normalisation_version"] == NORMALISATION_VERSION
    once = {"in_references": 1, "in_hypotheses": 1, "found": 1, "recall": 1.0, "precision": 1.0}
    assert scores["terms"] == {"5G": once}
    assert plain["terms"] == {} and plain["number_accuracy"] is None
    rows = utterance_rows(references, hypotheses, {key: {} for key in references}, options)
    assert (rows[0]["edits"], rows[0]["normalised_edits"], rows[0]["normalised_chars"]) == (2, 0, 6)


def test_the_interval_is_over_recordings() -> None:
    references = {str(number): "今天天气" for number in range(40)}
    hypotheses = [{key: "今天天气" if int(key) % 2 else "今天大气" for key in references}]
    alone = score_repeats(references, hypotheses)
    assert alone["cer_ci_low"] < alone["cer"] == 0.125 < alone["cer_ci_high"]
    pairs = {key: str(int(key) // 2) for key in references}  # one good and one bad segment each: no spread
    together = score_repeats(references, hypotheses, pairs)
    assert together["cer_ci_low"] == together["cer"] == together["cer_ci_high"]
    few = score_repeats(references, hypotheses, dict.fromkeys(references, "one"))
    assert few["cer_ci_low"] is None and few["cer_ci_high"] is None


def test_failure_takes_the_place_of_scores(tmp_path: Path) -> None:
    facts = TrialFacts("lora.r=2", "python -m x", {"lora.r": 2, "optim.lr": 0.1, "trainer.max_epochs": 3})
    write_json(tmp_path / "scores.json", {"cer": 0.5})
    write_failure(tmp_path, facts, ConfigError("lora.r", 2, "不行"))
    assert [path.name for path in tmp_path.iterdir()] == ["failure.json"]
    text = (tmp_path / "failure.json").read_text(encoding="utf-8")
    assert "不行" in text
    assert json.loads(text) == {
        "trial": "lora.r=2",
        "error_type": "ConfigError",
        "message": "lora.r=2: 不行",
        "params": {"lora.r": 2, "optim.lr": 0.1},
        "command": "python -m x",
    }
