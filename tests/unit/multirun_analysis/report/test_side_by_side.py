"""Every utterance under several trials: what is packed for the page, and which references are suspected."""

from __future__ import annotations

import base64
import gzip
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from multirun_analysis import load_sweep
from multirun_analysis.analysis import Analysis
from multirun_analysis.messages import ENGLISH
from multirun_analysis.report.page import render
from multirun_analysis.report.side_by_side import SideBySide, Suspect, side_by_side, suspects
from tests.report_page import body, page_of, section

EVIL = "</script><img src=x onerror=alert(1)>"
REFERENCES = {"a": "今天开会", "b": "明天开会", "c": "后天开会。", "d": EVIL}


def write(sweep: Any, texts: list[list[str]], base: list[str] | None = None, **rows: Any) -> Any:
    """Trials of different adapters with these texts of ``REFERENCES``, the best first; ``rows`` is in every row."""

    def lines(heard: list[str]) -> list[dict[str, Any]]:
        return [
            {"id": name, "repeat": 0, "reference": text, "hypothesis": said, **rows}
            for (name, text), said in zip(REFERENCES.items(), heard, strict=True)
        ]

    for number, heard in enumerate(texts):
        folder = sweep.trial(number, rank=2 ** (number + 1), cer=0.1 + number / 10, baseline=base is not None)
        sweep.heard(folder / "utterances.jsonl", lines(heard))
        if base is not None:
            sweep.heard(folder / "baseline_utterances.jsonl", lines(base))
    return sweep


def view_of(analysis: Analysis) -> SideBySide:
    view = side_by_side(analysis, suspects(analysis.statistics.transcripts), ENGLISH)
    assert view is not None
    return view


def unpacked(view: SideBySide) -> dict[str, Any]:
    return json.loads(gzip.decompress(base64.b64decode(view.packed)))


def test_equal_texts_are_there_once_and_every_trial_names_its_own(sweep: Any) -> None:
    better, worse = [*REFERENCES.values()], ["今天看会", "", "后天开会。", EVIL]
    analysis = load_sweep(write(sweep, [better, worse], base=worse).folder)
    view = view_of(analysis)
    assert [key for key, _ in view.choices] == view.keys == ["0", "1", "base-0"]
    assert (view.trial, view.other, view.more_trials, view.more_utterances) == ("0", "base-0", 0, 0)
    found = unpacked(view)
    assert found["texts"] == [["今天开会", "今天看会"], ["明天开会", ""], ["后天开会。"], [EVIL]]
    assert found["which"] == [[0, 1, 1], [0, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert found["edits"] == [[0, 1, 1], [0, 4, 4], [0, 0, 0], [0, 0, 0]]
    assert (found["base"], found["recommended"], found["repeats"]) == (2, 0, [1, 1, 1])
    assert view.packed == view_of(analysis).packed


def test_pairs_are_those_of_the_statistics(synthetic: Analysis) -> None:
    found, pairs = unpacked(view_of(synthetic)), synthetic.statistics.pairs
    assert len(found["pairs"]) == len(pairs) == 36
    for (first, second, difference, low, high, p), pair in zip(found["pairs"], pairs, strict=True):
        assert pair.interval and difference == pytest.approx(pair.difference, abs=1e-6)
        assert (low, high, p) == pytest.approx((pair.interval.low, pair.interval.high, pair.p_adjusted), abs=1e-6)
        rates = [found["rates"][found["settings"].index(place)] for place in (first, second)]
        assert rates[0] - rates[1] == pytest.approx(difference, abs=2e-6)


def test_errors_are_those_of_the_rate_that_ranks(sweep: Any) -> None:
    write(sweep, [[*REFERENCES.values()], ["今天开会。", "明天看会。", *[*REFERENCES.values()][2:]]])
    analysis = load_sweep(sweep.folder, rank_by="normalised_cer")
    found = unpacked(view_of(analysis))
    assert found["edits"][:2] == [[0, 0], [0, 1]] and found["which"][:2] == [[0, 1], [0, 1]]
    assert "the normalised CER counts" in section(render(analysis, datetime(2026, 1, 1)), "utterances")


def test_where_seeds_are_swept_pairs_are_of_settings(sweep: Any) -> None:
    texts = [[*REFERENCES.values()], ["今天看会", *REFERENCES.values()][:4]]
    write(sweep, [texts[0], texts[1], texts[1]], base=texts[1])
    for number, (rank, seed) in enumerate(((2, 0), (2, 1), (4, 0))):
        record = sweep.folder / str(number) / "scores.json"
        params = sweep.params(rank, 1e-3, 0.0) | {"seed": seed}
        sweep.write(record, json.loads(record.read_text(encoding="utf-8")) | {"params": params})
    analysis = load_sweep(sweep.folder)
    found = unpacked(view_of(analysis))
    assert analysis.has_seeds and found["settings"][0] == found["settings"][1] and len(set(found["settings"])) == 3
    assert {frozenset(pair[:2]) for pair in found["pairs"]} == {
        frozenset({one, other}) for one in found["settings"] for other in found["settings"] if one != other
    }
    assert "means over seeds" in section(page_of(sweep.folder), "utterances")


def test_of_repeated_sampling_the_worst_text_is_shown_and_edits_are_summed(sweep: Any) -> None:
    write(sweep, [[*REFERENCES.values()]] * 2)
    rows = [
        {"id": name, "repeat": repeat, "reference": text, "hypothesis": text[: 4 - cut]}
        for name, text in REFERENCES.items()
        for repeat, cut in enumerate((1, 2, 0))
    ]
    sweep.heard(sweep.folder / "1" / "utterances.jsonl", rows)
    found = unpacked(view_of(load_sweep(sweep.folder)))
    assert found["texts"][0] == ["今天开会", "今天"] and found["edits"][0] == [0, 3] and found["repeats"] == [1, 3]


def test_a_reference_that_most_adapters_contradict_alike_is_suspected(sweep: Any) -> None:
    """A full stop more is no contradiction, two decodings of an adapter are one vote, and texts must be the same."""
    agreed = ["今天看会", "明天", "后天开会", EVIL]
    write(sweep, [agreed, agreed, [agreed[0], "明", *agreed[2:]], agreed], base=["今天开会", *agreed[1:]])
    analysis = load_sweep(sweep.folder)
    assert suspects(analysis.statistics.transcripts) == {"a": Suspect("今天看会", 4, 5), "b": Suspect("明天", 4, 5)}
    assert unpacked(view_of(analysis))["suspects"] == {"0": ["今天看会", 4, 5], "1": ["明天", 4, 5]}
    worst = section(page_of(sweep.folder), "worst")
    assert worst.count("<b>suspect label</b> 4 of 5 models write:") == 2
    for number in (1, 2):
        record = sweep.folder / str(number) / "scores.json"
        sweep.write(record, json.loads(record.read_text(encoding="utf-8")) | {"signature": "adapter-2-0.001"})
    assert suspects(load_sweep(sweep.folder).statistics.transcripts) == {"b": Suspect("明天", 3, 3)}


def test_trials_and_then_utterances_are_left_out_when_texts_have_no_room(
    sweep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [["今天开会", "明天开会", "后天开会。", f"{'他' * number}"] for number in range(1, 6)]
    write(sweep, texts, base=["今天看会", "", "开会", "他们"])
    analysis = load_sweep(sweep.folder)
    monkeypatch.setattr("multirun_analysis.report.side_by_side.MOST_CHARACTERS", 62)
    view = view_of(analysis)
    assert view.keys == ["0", "1", "base-0"] and view.more_trials == 3 and view.more_utterances == 0
    monkeypatch.setattr("multirun_analysis.report.side_by_side.MOST_CHARACTERS", 50)
    view = view_of(analysis)
    assert unpacked(view)["ids"] == ["b", "d"] and view.more_utterances == 2  # those with the most edits
    page = body(page_of(sweep.folder))
    assert "3 trials are left out" in page and "2 utterances with few errors are left out" in page


def test_a_text_without_end_is_packed_as_its_begin(sweep: Any) -> None:
    write(sweep, [["今天" * 2000, *[*REFERENCES.values()][1:]], [*REFERENCES.values()]])
    begin, cut = unpacked(view_of(load_sweep(sweep.folder)))["texts"][0][1]
    assert len(begin) == cut == 2000


def test_one_trial_has_nothing_beside_it(sweep: Any) -> None:
    write(sweep, [[*REFERENCES.values()]])
    analysis = load_sweep(sweep.folder)
    assert side_by_side(analysis, {}, ENGLISH) is None
    assert 'id="utterances"' not in page_of(sweep.folder)
    (sweep.folder / "0" / "utterances.jsonl").unlink()
    assert suspects(load_sweep(sweep.folder).statistics.transcripts) == {}


def test_no_text_of_a_user_is_in_the_source(sweep: Any) -> None:
    texts = [["今天看会", *[*REFERENCES.values()][1:]], [EVIL] * 4]
    page = section(page_of(write(sweep, texts, audio=EVIL).folder), "utterances")
    assert "data-packed" in page and EVIL not in page and "onerror" not in page and "今天看会" not in page


def test_recordings_of_the_largest_differences_are_in_the_page_once(sweep: Any, tmp_path: Path) -> None:
    wav = tmp_path / "a.wav"
    soundfile.write(wav, np.random.default_rng(0).normal(0, 0.1, 8_000), 16_000)
    write(sweep, [[*[*REFERENCES.values()][:3], "他"], ["今天看会", *REFERENCES.values()][:4]], audio=str(wav))
    page = body(page_of(sweep.folder))
    worst, view = section(page, "worst"), section(page, "utterances")
    assert worst.count('data-id="d"') == 1 and worst.count("data:audio") == 1
    assert [view.count(f'data-id="{name}"') for name in "abcd"] == [1, 1, 1, 0] and view.count("data:audio") == 3
