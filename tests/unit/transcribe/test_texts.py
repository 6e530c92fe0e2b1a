"""Answers that the store keeps by what is heard."""

from __future__ import annotations

from pathlib import Path

import pytest

from kimi_audio_ft import store
from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import DecodingConfig, ModelConfig
from kimi_audio_ft.decoding.request import Answer, DecodingRequest
from kimi_audio_ft.store.__main__ import main
from kimi_audio_ft.store.inventory import listing
from kimi_audio_ft.transcribe.texts import KnownAnswers

GREEDY = [DecodingRequest(DecodingConfig(), 0)]
HOT = DecodingConfig(text_temperature=0.5, repeats=2)
TWICE = DecodingRequest(HOT, 3).repeats()


def known(requests: list[DecodingRequest] = GREEDY, prompt: str = "转录", adapter: str | None = "a1") -> KnownAnswers:
    return KnownAnswers(Base(ModelConfig(dtype="float32"), "cached"), adapter, prompt, requests)


def file_of(answers: KnownAnswers) -> Path:
    return store.product_path("transcript", answers.signature) / "answers.jsonl"


def test_what_is_added_is_there_for_the_next_run() -> None:
    first = known()
    assert "k1" not in first
    first.add([{"k1": Answer("今天\n开会", True, -1.5, 4), "k2": Answer("")}])
    first.add([{"k3": Answer("好", False, -0.25, 2)}])
    for answers in (first, known()):
        assert "k4" not in answers
        [one], [two], [three] = answers["k1"], answers["k2"], answers["k3"]
        assert (one, one.is_cut, one.log_probability, one.choices) == ("今天\n开会", True, -1.5, 4)
        assert (two, two.is_cut) == ("", False) and three == "好"


def test_samples_belong_together() -> None:
    known(TWICE).add([{"k": Answer("一")}, {"k": Answer("二")}])
    assert list(known(TWICE)["k"]) == ["一", "二"]


def test_other_answers_have_another_place() -> None:
    names = [
        known(),
        known(prompt="请转录"),
        known(adapter=None),
        known(TWICE),
        known(DecodingRequest(HOT, 4).repeats()),
        known([DecodingRequest(DecodingConfig(max_new_tokens=9), 0)]),
    ]
    assert len({answers.signature for answers in names}) == len(names)
    assert known([DecodingRequest(DecodingConfig(batch_size=2), 0)]).signature == names[0].signature


def test_half_a_line_of_a_killed_process_is_left_out() -> None:
    answers = known()
    answers.add([{"k1": Answer("一"), "k2": Answer("二")}])
    path = file_of(answers)
    path.write_bytes(path.read_bytes()[:-9])
    again = known()
    assert "k1" in again and "k2" not in again
    again.add([{"k2": Answer("二")}])
    assert known()["k2"] == ["二"] and known()["k1"] == ["一"]


def test_the_store_lists_it_and_knows_that_it_grows(capsys: pytest.CaptureFixture[str]) -> None:
    answers = known()
    answers.add([{"k1": Answer("一")}])
    (row,) = listing()
    assert (row["kind"], row["signature"]) == ("transcript", answers.signature)
    assert row["made_by"].startswith("adapter=a1 seed=0 text_temperature=0.0")
    main(["verify"])
    assert "ok (it grows" in " ".join(capsys.readouterr().out.split())
