from __future__ import annotations

from typing import Any

import pytest

from kimi_audio_ft.errors import DataError
from multirun_analysis import load_sweep
from multirun_analysis.statistics.tally import tally_up
from multirun_analysis.sweep import Trial

# Two utterances, the first with a comma that only the strict count sees.
ROWS = [
    {"id": "a", "repeat": 0, "reference": "你好，世界", "hypothesis": "你好世间"},
    {"id": "b", "repeat": 0, "reference": "早上好", "hypothesis": ""},
]


def trials(sweep: Any, *rows: list[dict[str, Any]]) -> list[Trial]:
    for number, lines in enumerate(rows):
        folder = sweep.trial(number, rank=number + 1)
        sweep.heard(folder / "utterances.jsonl", lines)
    return load_sweep(sweep.folder).sweep.trials


def test_counts_of_the_file_are_taken(sweep) -> None:
    counts = {"recording": "r1", "edits": 7, "chars": 11, "normalised_edits": 5, "normalised_chars": 10}
    read = trials(sweep, [ROWS[0] | counts, ROWS[1]])
    found = tally_up(read)
    assert found.strict and found.normalised
    assert found.strict.edits.tolist() == [[7, 3]] and found.strict.chars.tolist() == [11, 3]
    assert found.normalised.edits.tolist() == [[5, 3]] and found.normalised.chars.tolist() == [10, 3]
    assert found.strict.recordings == ["r1", "b"] and found.strict.num_recordings == 2
    assert found.strict.rates.tolist() == [10 / 14]
    assert "utterances" not in vars(read[0])  # thirty-six trials' rows are not kept


def test_repeats_are_summed_and_their_means_compared(sweep) -> None:
    again = [row | {"repeat": 1, "hypothesis": row["reference"]} for row in ROWS]
    found = tally_up(trials(sweep, ROWS, ROWS + again)).strict
    assert found and found.repeats.tolist() == [1, 2]
    assert found.edits.tolist() == [[2, 3], [2, 3]] and found.mean_edits.tolist() == [[2, 3], [1, 1.5]]
    assert found.rates.tolist() == [5 / 8, 5 / 16]


def test_edits_are_summed_over_the_utterances_of_a_recording(sweep) -> None:
    lines = [row | {"recording": name} for row, name in zip([*ROWS, ROWS[0] | {"id": "c"}], "xyx", strict=True)]
    found = tally_up(trials(sweep, lines)).strict
    assert found and found.edits_by_recording.tolist() == [[4, 3]]
    assert found.chars_by_recording.tolist() == [10, 3]


@pytest.mark.parametrize(
    "other",
    [
        [],
        ROWS[:1],
        [ROWS[0], ROWS[1] | {"id": "other"}],
        [ROWS[0], ROWS[1] | {"reference": "早上好吗"}],
        [ROWS[0], ROWS[1] | {"reference": ROWS[1]["reference"][::-1]}],
        [*ROWS, ROWS[0] | {"repeat": 1}],
    ],
)
def test_a_trial_with_other_utterances_is_left_out(sweep, other: list[dict[str, Any]]) -> None:
    found = tally_up(trials(sweep, ROWS, other))
    assert found.strict and [trial.name for trial in found.strict.trials] == ["0"]
    assert [trial.name for trial in found.left_out] == ["1"]


def test_without_any_utterances_there_is_no_tally(sweep) -> None:
    (sweep.trial(0) / "utterances.jsonl").unlink()
    read = load_sweep(sweep.folder).sweep.trials
    found = tally_up(read)
    assert found.strict is None and found.normalised is None and found.left_out == read


def test_a_line_without_its_counts_is_an_error_that_names_the_file(sweep) -> None:
    file = sweep.trial(0) / "utterances.jsonl"
    sweep.write_lines(file, ROWS)
    with pytest.raises(DataError, match=r"0/utterances\.jsonl.*without 'chars'"):
        load_sweep(sweep.folder)
