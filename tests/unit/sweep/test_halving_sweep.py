"""Halving from candidates to survivors, its record and its tables, over a launcher that trains nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.config.launcher import HalvingConfig
from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.sweep.halving import Candidate, Fate, RungResult, make_candidates, run_rungs
from kimi_audio_ft.sweep.halving_run import Record, print_rung

SETTINGS = HalvingConfig()
NUM_STEPS = 40


@dataclass
class Rates:
    """A launcher whose adapters are as good as their rate is high; rate 0 fails, rate -1 has no valid config.

    asked: (step, jobs) of every call. steps: length of a training, by rate. finished: rates that the store has.
    """

    asked: list[tuple[int, list[str]]] = field(default_factory=list)
    steps: dict[float, int] = field(default_factory=dict)
    finished: set[float] = field(default_factory=set)

    def num_steps(self, job_overrides: Sequence[Sequence[str]]) -> list[int]:
        return [0 if rate == -1 else self.steps.get(rate, NUM_STEPS) for rate in map(self._rate, job_overrides)]

    def train_until(self, job_overrides: Sequence[Sequence[str]], until: int, metric: str) -> list[RungResult]:
        assert metric == "cer"
        self.asked.append((until, [" ".join(job) for job in job_overrides]))
        return [self._result(self._rate(job), until) for job in job_overrides]

    def _result(self, rate: float, until: int) -> RungResult:
        length = self.steps.get(rate, NUM_STEPS)
        if rate == -1:
            return RungResult("", until, 0, None, "optim.lr=-1: must be positive", False)
        if rate == 0:
            return RungResult("a0.0", until, length, None, "loss is nan\nat step 3", False)
        if rate in self.finished:
            return RungResult(f"a{rate}", until, length, None, None, True)
        return RungResult(f"a{rate}", until, length, 1 / (rate * until), None, False)

    @staticmethod
    def _rate(job: Sequence[str]) -> float:
        [value] = [item.partition("=")[2] for item in job if item.startswith("optim.lr=")]
        return float(value)


def grid(*rates: str) -> list[list[str]]:
    return [[f"optim.lr={rate}", f"decoding.text_temperature={t}"] for rate in rates for t in (0.0, 0.5)]


def run(
    trainer: Rates, *rates: str, on_rung: Callable[..., None] = lambda everyone, rung: None
) -> dict[str, Candidate]:
    everyone = run_rungs(make_candidates(grid(*rates), None, 1), trainer, SETTINGS, on_rung)
    return {candidate.name.removeprefix("lr="): candidate for candidate in everyone}


def fates(candidate: Candidate) -> list[str]:
    return [decision.fate.value for decision in candidate.decisions]


def test_best_go_on_from_rung_to_rung() -> None:
    trainer = Rates()
    done = run(trainer, "1", "2", "3", "4", "5")
    assert [(step, len(jobs)) for step, jobs in trainer.asked] == [(10, 5), (20, 3)]
    assert trainer.asked[1][1] == [f"optim.lr={rate} decoding.text_temperature=0.0" for rate in "345"]
    assert {rate: fates(one) for rate, one in done.items()} == {
        "1": ["stopped"],
        "2": ["stopped"],
        "3": ["continued", "stopped"],
        "4": ["continued", "continued"],
        "5": ["continued", "continued"],
    }
    assert [rate for rate, one in done.items() if one.is_alive] == ["4", "5"]
    assert done["5"].results[1] == RungResult("a5.0", 20, 40, 0.01, None, False)


def test_one_that_is_left_alone_trains_straight_to_its_end() -> None:
    trainer = Rates()
    assert run(trainer, "7")["7"].is_alive
    assert trainer.asked == []
    assert [one.is_alive for one in run(trainer, "1", "2").values()] == [False, True]
    assert [step for step, _ in trainer.asked] == [10]


def test_failed_ones_are_out_with_their_reason() -> None:
    done = run(Rates(), "0", "-1", "1", "2")
    assert fates(done["0"]) == fates(done["-1"]) == ["failed"]
    assert done["0"].decisions[0].reason == "loss is nan\nat step 3"
    assert "must be positive" in done["-1"].decisions[0].reason
    assert fates(done["1"]) == ["continued", "stopped"]


def test_all_failed_is_an_error_with_every_reason() -> None:
    with pytest.raises(
        UserError, match=r"all 2 adapters failed before step(.|\n)*loss is nan\n(.|\n)*must be positive"
    ):
        run(Rates(), "0", "-1")


def test_trainings_of_different_length_are_judged_at_the_same_part() -> None:
    trainer = Rates(steps={2.0: 80})
    run(trainer, "1", "2", "3", "4")
    assert [(step, len(jobs)) for step, jobs in trainer.asked] == [(10, 3), (20, 1), (20, 1), (40, 1)]


def test_rung_outside_a_training_stops_everything_before_it_begins() -> None:
    trainer = Rates(steps={2.0: 1})
    with pytest.raises(ConfigError, match="lr=2 trains"):
        run(trainer, "1", "2")
    assert trainer.asked == []


def test_same_adapter_twice_competes_once_and_keeps_all_its_jobs() -> None:
    done = run(Rates(), "1", "2", "2.0", "3")
    assert list(done) == ["1", "2", "3"]
    assert list(done["2"].jobs) == [2, 3, 4, 5]
    assert [one.is_alive for one in done.values()] == [False, False, True]
    assert fates(done["2"]) == ["continued", "stopped"]  # two of three go on from the first rung


def test_finished_ones_pass_and_a_rung_for_them_alone_is_left_out() -> None:
    trainer = Rates(finished={1.0, 2.0})
    done = run(trainer, "1", "2", "3")
    assert fates(done["1"]) == fates(done["2"]) == ["passed"]
    assert [step for step, _ in trainer.asked] == [10]
    assert all(one.is_alive for one in done.values())


class Recorded:
    """Runs a sweep with its record in a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "halving.json"
        self.record = Record(folder, SETTINGS, 10)

    def run(self, *rates: str) -> dict[str, Any]:
        self.record.write(list(run(Rates(), *rates, on_rung=self._rung).values()))
        return self.read()

    def _rung(self, everyone: Sequence[Candidate], rung: int) -> None:
        self.record.write(everyone)

    def read(self) -> dict[str, Any]:
        return json.loads(self.path.read_text(encoding="utf-8"))


def test_record_says_what_was_stopped_when_and_why(tmp_path: Path) -> None:
    document = Recorded(tmp_path).run("1", "2", "3", "4", "0")
    by_name = {entry["name"]: entry for entry in document["candidates"]}
    assert document["rungs"] == [0.25, 0.5] and document["jobs_in_grid"] == 10
    stopped = by_name["lr=1"]
    assert stopped["decision"] == "stopped" and stopped["rung"] == 1 and stopped["step"] == 10
    assert stopped["score"] == 0.1 and stopped["rank"] == 4 and stopped["jobs"] == 2
    assert stopped["signature"] == "a1.0" and stopped["reason"].startswith("rank 4 of 4 at step 10: CER 10.00 %")
    assert stopped["overrides"] == ["optim.lr=1", "decoding.text_temperature=0.0"]
    assert [rung["step"] for rung in by_name["lr=4"]["history"]] == [10, 20]
    assert by_name["lr=0"]["decision"] == "failed" and by_name["lr=0"]["score"] is None
    assert (document["steps_trained"], document["steps_of_all"]) == (10 + 20 + 40 + 40 + 10, 200)


def test_interrupted_record_keeps_its_times_when_it_goes_on(tmp_path: Path) -> None:
    first = Recorded(tmp_path)
    document = first.run("1", "2")
    for entry in document["candidates"]:
        entry["history"][0]["time"] = f"before {entry['name']}"
    document["candidates"][1]["history"][0]["score"] = 0.5  # was decided otherwise
    first.path.write_text(json.dumps(document), encoding="utf-8")
    times = [entry["time"] for entry in Recorded(tmp_path).run("1", "2")["candidates"]]
    assert times[0] == "before lr=1" and times[1].startswith("20")


def test_table_of_a_rung(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    run(Rates(), "1", "2", "3", "0", on_rung=lambda everyone, rung: print_rung(everyone, rung, SETTINGS))
    first, second = capsys.readouterr().out.split("Rung 2")
    lines = first.splitlines()
    assert lines[0].startswith("Rung 1 of 2, step 10: 2 of 4 adapters go on")
    assert [line.split()[:2] for line in lines if "lr=" in line] == [
        ["1", "lr=3"], ["2", "lr=2"], ["3", "lr=1"], ["–", "lr=0"]
    ]  # fmt: skip
    assert "failed: loss is nan" in first and "at step 3" not in first
    assert "1 of 2 adapters go on" in second and "lr=1" not in second


def test_long_tables_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    rates = [str(rate) for rate in range(1, 51)]
    run(Rates(), *rates, on_rung=lambda everyone, rung: print_rung(everyone, rung, SETTINGS))
    assert "... and 10 more, all in halving.json" in capsys.readouterr().out


def test_fates_are_plain_words_in_json() -> None:
    assert json.dumps(Fate.STOPPED) == '"stopped"'
