from __future__ import annotations

from typing import Any

import pytest

from kimi_audio_ft.errors import DataError
from multirun_analysis import load_sweep
from multirun_analysis.statistics.tally import tally_up
from multirun_analysis.sweep import Trial

# Two utterances, the first with a comma that only the strict count sees.
OLD = [
    {"id": "a", "repeat": 0, "reference": "你好，世界", "hypothesis": "你好世间", "cer": 0.4},
    {"id": "b", "repeat": 0, "reference": "早上好", "hypothesis": "", "cer": 1.0},
]
COUNTS = [
    {"recording": "r1", "edits": 7, "chars": 11, "normalised_edits": 5, "normalised_chars": 10},
    {"recording": "r1", "edits": 1, "chars": 12, "normalised_edits": 0, "normalised_chars": 9},
]


def trials(sweep: Any, *rows: list[dict[str, Any]]) -> list[Trial]:
    for number, lines in enumerate(rows):
        folder = sweep.trial(number, rank=number + 1)
        sweep.write_lines(folder / "utterances.jsonl", lines)
    return load_sweep(sweep.folder).sweep.trials


def test_counts_of_the_file_are_taken(sweep) -> None:
    read = trials(sweep, [row | counts for row, counts in zip(OLD, COUNTS, strict=True)])
    found = tally_up(read)
    assert found.strict and found.normalised
    assert found.strict.edits.tolist() == [[7, 1]] and found.strict.chars.tolist() == [11, 12]
    assert found.normalised.edits.tolist() == [[5, 0]] and found.normalised.chars.tolist() == [10, 9]
    assert found.strict.recordings == ["r1", "r1"] and found.strict.num_recordings == 1
    assert found.strict.rates.tolist() == [8 / 23]
    assert "utterances" not in vars(read[0])  # thirty-six trials' rows are not kept


def test_older_files_are_counted_from_their_texts(sweep) -> None:
    found = tally_up(trials(sweep, OLD))
    assert found.strict and found.normalised
    assert found.strict.edits.tolist() == [[2, 3]] and found.strict.chars.tolist() == [5, 3]
    assert found.normalised.edits.tolist() == [[1, 3]] and found.normalised.chars.tolist() == [4, 3]
    assert found.strict.recordings == ["a", "b"]


def test_repeats_are_summed_and_their_means_compared(sweep) -> None:
    again = [row | {"repeat": 1, "hypothesis": row["reference"]} for row in OLD]
    found = tally_up(trials(sweep, OLD, OLD + again)).strict
    assert found and found.repeats.tolist() == [1, 2]
    assert found.edits.tolist() == [[2, 3], [2, 3]] and found.mean_edits.tolist() == [[2, 3], [1, 1.5]]
    assert found.rates.tolist() == [5 / 8, 5 / 16]


def test_edits_are_summed_over_the_utterances_of_a_recording(sweep) -> None:
    lines = [row | {"recording": name} for row, name in zip([*OLD, OLD[0] | {"id": "c"}], "xyx", strict=True)]
    found = tally_up(trials(sweep, lines)).strict
    assert found and found.edits_by_recording.tolist() == [[4, 3]]
    assert found.chars_by_recording.tolist() == [10, 3]


@pytest.mark.parametrize(
    "other",
    [
        [],
        OLD[:1],
        [OLD[0], OLD[1] | {"id": "other"}],
        [OLD[0], OLD[1] | {"reference": "早上好吗"}],
        [OLD[0], OLD[1] | {"reference": OLD[1]["reference"][::-1]}],
        [*OLD, OLD[0] | {"repeat": 1}],
    ],
)
def test_a_trial_with_other_utterances_is_left_out(sweep, other: list[dict[str, Any]]) -> None:
    found = tally_up(trials(sweep, OLD, other))
    assert found.strict and [trial.name for trial in found.strict.trials] == ["0"]
    assert [trial.name for trial in found.left_out] == ["1"]


def test_without_any_utterances_there_is_no_tally(sweep) -> None:
    (sweep.trial(0) / "utterances.jsonl").unlink()
    read = load_sweep(sweep.folder).sweep.trials
    found = tally_up(read)
    assert found.strict is None and found.normalised is None and found.left_out == read


def test_a_line_without_its_text_is_an_error_that_names_the_file(sweep) -> None:
    with pytest.raises(DataError, match=r"0/utterances\.jsonl.*without 'hypothesis'"):
        tally_up(trials(sweep, [{"id": "a", "reference": "早"}]))
