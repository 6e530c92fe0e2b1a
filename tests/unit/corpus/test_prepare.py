"""CSV to manifests: all that `prepare` does, without Hydra."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kimi_audio_ft.config.commands import PrepareConfig
from kimi_audio_ft.config.data_file import untokenized
from kimi_audio_ft.corpus.prepare import PrepareSummary, manifest_path, prepare, write_lines_together
from kimi_audio_ft.corpus.reasons import REASONS
from kimi_audio_ft.corpus.rows import number_repeats
from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.manifest.manifest import read_manifest

RATE = 8000


def record(path: Path, seconds: float = 1.0, seed: int = 0) -> Path:
    """A second of noise, another one for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE)).astype(np.float32)
    soundfile.write(path, noise, RATE, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


def write_csv(path: Path, rows: list[list[str]], encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """20 recordings: 5 meetings of 4 segments."""
    rows = [["audio", "text", "kind"]]
    for index in range(20):
        name = f"meeting{index // 4}_{index % 4}.wav"
        record(tmp_path / "data" / "wav" / name, seed=index)
        rows.append([f"wav/{name}", f"第{index}句", "rare" if index % 4 == 0 else "often"])
    return write_csv(tmp_path / "data" / "corpus.csv", rows)


def config_for(table: Path, **options: Any) -> PrepareConfig:
    """Without a test split unless options ask for one."""
    given = {"csv": str(table), "out": str(table.parent / "out"), "test_ratio": 0.0}
    return PrepareConfig(**given | options)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def prepared(table: Path, **options: Any) -> tuple[PrepareSummary, dict[str, list[dict[str, Any]]]]:
    """What `prepare` returns, and the lines of each file that lies there then."""
    summary = prepare(config_for(table, **options))
    return summary, {path.stem: lines(path) for path in (table.parent / "out").glob("*.jsonl")}


def texts(manifest: list[dict[str, Any]]) -> Iterator[str]:
    return (entry["conversation"][2]["content"] for entry in manifest)


def test_a_manifest_line_is_the_published_format(corpus: Path) -> None:
    first = prepared(corpus, prompt="转写。", eval_ratio=0.0)[1]["train"][0]
    out = corpus.parent / "out"
    assert first == {
        "id": "meeting0_0",
        "group": "meeting0_0",
        "task_type": "understanding",
        "conversation": [
            {"role": "user", "message_type": "text", "content": "转写。"},
            {"role": "user", "message_type": "audio", "content": "../wav/meeting0_0.wav"},
            {"role": "assistant", "message_type": "text", "content": "第0句"},
        ],
    }
    assert (out / first["conversation"][1]["content"]).is_file()
    assert sorted(content(out)) == ["data.yaml", "rejected.jsonl", "summary.json", "train.jsonl"]


def test_the_same_command_writes_the_same_bytes(corpus: Path) -> None:
    config = config_for(corpus, eval_ratio=0.2, test_ratio=0.1, balance_column="kind", balance_mode="downsample")
    prepare(config)
    first = content(corpus.parent / "out")
    manifests = ["eval.jsonl", "test.jsonl", "train.jsonl"]
    assert sorted(first) == sorted(["data.yaml", "rejected.jsonl", "summary.json", *manifests])
    prepare(config)
    assert content(corpus.parent / "out") == first
    prepare(config_for(corpus, eval_ratio=0.2, test_ratio=0.1, seed=1))
    assert content(corpus.parent / "out")["eval.jsonl"] != first["eval.jsonl"]


@pytest.mark.parametrize("options", [{"group_pattern": r"(meeting\d+)_"}, {"group_pattern": r"meeting\d+"}])
def test_segments_of_a_recording_stay_together(corpus: Path, options: dict[str, str]) -> None:
    summary, manifests = prepared(corpus, eval_ratio=0.2, test_ratio=0.2, **options)
    assert manifests.pop("rejected") == []
    groups = {name: {entry["group"] for entry in manifest} for name, manifest in manifests.items()}
    assert sorted(len(of_split) for of_split in groups.values()) == [1, 1, 3]
    assert set.union(*groups.values()) == {f"meeting{index}" for index in range(5)}
    assert {name: len(manifest) for name, manifest in manifests.items()} == {"train": 12, "eval": 4, "test": 4}
    assert (summary.splits["eval"].segments, summary.splits["eval"].groups) == (4, 1)
    assert summary.splits["eval"].hours == pytest.approx(4 / 3600, abs=1e-6)


def test_groups_and_ids_from_columns(tmp_path: Path) -> None:
    rows = [["audio", "text", "speaker", "key"]]
    rows += [[record(tmp_path / f"{index}.wav", seed=index).name, "好", "甲乙"[index // 3], "k"] for index in range(6)]
    rows[3][3] = ""
    table = write_csv(tmp_path / "a.csv", rows)
    _, found = prepared(table, group_column="speaker", id_column="key", eval_ratio=0.5)
    assert [len({entry["group"] for entry in found[name]}) for name in ("train", "eval")] == [1, 1]
    ids = sorted(entry["id"] for manifest in found.values() for entry in manifest)
    assert ids == ["2", "k", "k-2", "k-3", "k-4", "k-5"]


def test_every_reason_is_told_with_its_line_and_nothing_disappears(tmp_path: Path) -> None:
    folder = tmp_path
    for index, name in enumerate(["a.wav", "b.wav", "c.wav", "d.wav", "slow.wav", "e.wav", "2_y.wav"]):
        record(folder / name, seed=index)
    record(folder / "short.wav", 0.1)
    record(folder / "long.wav", 5.0)
    (folder / "twin.wav").write_bytes((folder / "a.wav").read_bytes())
    (folder / "e2.wav").write_bytes((folder / "e.wav").read_bytes())
    noise = np.random.default_rng(9).uniform(-0.5, 0.5, RATE)
    soundfile.write(folder / "silent.wav", 0 * noise, RATE)
    soundfile.write(folder / "clipped.wav", np.sign(noise), RATE)
    soundfile.write(folder / "antiphase.wav", np.stack([noise, -noise], axis=1), RATE)
    (folder / "text.wav").write_text("no recording")
    soundfile.write(folder / "zero.wav", np.zeros(0, np.float32), RATE)
    soundfile.write(folder / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    soundfile.write(folder / "loud.wav", np.full(RATE, 9000, np.float32), RATE, subtype="FLOAT")
    good = [["a.wav", "一，\n二", "甲"], ["b.wav", "三", "乙"], ["2_y.wav", "四", "乙"]]
    bad = {
        "empty_transcript": ["c.wav", " 。", "甲"],
        "garbled_transcript": ["c.wav", "ä½ å¥½", "甲"],
        "tagged_transcript": ["c.wav", "<unk>好", "甲"],
        "silent_audio": ["silent.wav", "好", "甲"],
        "clipped_audio": ["clipped.wav", "好", "甲"],
        "cancelling_channels": ["antiphase.wav", "好", "甲"],
        "malformed_row": ["c.wav", "好"],
        "missing_audio": ["no.wav", "好", "甲"],
        "unreadable_audio": ["text.wav", "好", "甲"],
        "empty_audio": ["zero.wav", "好", "甲"],
        "too_short": ["short.wav", "好", "甲"],
        "too_long": ["long.wav", "好", "甲"],
        "nan_samples": ["nan.wav", "好", "甲"],
        "samples_out_of_range": ["loud.wav", "好", "甲"],
        "chars_per_second": ["slow.wav", "一二三四五", "甲"],
        "no_group": ["d.wav", "好", " "],
        "duplicate_audio": ["twin.wav", "一二。", "甲"],
        "other_transcript": ["e.wav", "好", "甲"],
    }
    its_twin = ["e2.wav", "坏", "甲"]
    table = write_csv(folder / "a.csv", [["audio", "text", "speaker"], *good, *bad.values(), its_twin])
    options = {
        "max_refused": 1.0,
        "max_seconds": 3.0,
        "max_chars_per_second": 4.0,
        "group_column": "speaker",
        "eval_ratio": 0.0,
    }
    balancing = {"balance_column": "speaker", "balance_mode": "downsample"}
    summary, written = prepared(table, **options, **balancing)
    train, rejected = written["train"], written["rejected"]
    by_reason = {entry["reason"]: entry for entry in rejected}
    # Whole recordings, and no decisions, here.
    reasons = [reason for reason in REASONS if reason not in ("bad_segment", "no_channel", "dropped")]
    assert set(by_reason) == set(reasons) == {*bad, "balanced_out"}
    # The header is line 1 and the first row takes lines 2 and 3.
    refused = [entry for entry in rejected if entry["reason"] in bad]
    assert [entry["line"] for entry in refused] == list(range(6, 7 + len(bad)))
    assert [entry["reason"] for entry in refused] == [*bad, "other_transcript"]
    assert [entry["row"]["audio"] for entry in refused] == [row[0] for row in (*bad.values(), its_twin)]
    assert by_reason["balanced_out"]["line"] in (4, 5)
    assert by_reason["duplicate_audio"]["detail"] == "same samples as the recording of line 2"
    assert by_reason["too_long"]["detail"] == "5.000 s is longer than max_seconds=3"
    assert by_reason["malformed_row"]["detail"] == "2 fields; every row must have 3"
    assert by_reason["malformed_row"]["row"] == {"audio": "c.wav", "text": "好"}
    assert "一，\n二" in texts(train)
    assert summary.rows == len(good) + len(bad) + 1 == len(train) + len(rejected)
    assert summary.rejected == {**dict.fromkeys(reasons, 1), "other_transcript": 2}
    assert summary.examples["too_long"] == f"line {by_reason['too_long']['line']}: {by_reason['too_long']['detail']}"
    assert list(summary.rejected) == reasons
    assert json.loads((folder / "out" / "summary.json").read_text("utf-8")) == asdict(summary)


def test_an_unusable_row_is_not_the_first_of_duplicates(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    table = write_csv(tmp_path / "a.csv", [["audio", "text"], ["a.wav", ""], ["a.wav", "好"], ["a.wav", "好。"]])
    _, written = prepared(table, eval_ratio=0.0, max_refused=1.0)
    assert list(texts(written["train"])) == ["好"]
    assert [entry["line"] for entry in written["rejected"]] == [2, 4]


def test_gbk_without_header_by_position_and_pattern(tmp_path: Path) -> None:
    for name in ("甲", "乙"):
        record(tmp_path / "录音" / "2024" / f"{name}.wav", seed=ord(name))
    table = write_csv(tmp_path / "表.csv", [["你好", "甲", "2024"], ["再见", "乙", "2024"]], encoding="gbk")
    columns = {"audio_column": "1", "text_column": "0", "audio_pattern": "{csv_dir}/录音/{2}/{audio}.wav"}
    summary, written = prepared(table, eval_ratio=0.0, **columns)
    assert summary.encoding == "gb18030"
    assert [entry["id"] for entry in written["train"]] == ["甲", "乙"]
    assert list(texts(written["train"])) == ["你好", "再见"]


def test_row_limit_reads_the_first_rows_only(corpus: Path) -> None:
    summary = prepare(config_for(corpus, row_limit=8, eval_ratio=0.25))
    assert (summary.rows, summary.rows_beyond_limit) == (8, 12)
    assert summary.splits["train"].segments + summary.splits["eval"].segments == 8


def test_upsampling_repeats_training_rows_under_ids_of_their_own(corpus: Path) -> None:
    options = {"balance_column": "kind", "balance_mode": "upsample", "group_pattern": r"meeting\d+"}
    summary, written = prepared(corpus, eval_ratio=0.2, **options)
    train, held_out = written["train"], written["eval"]
    kinds = [entry["conversation"][1]["content"].endswith("_0.wav") for entry in train]
    assert (kinds.count(True), kinds.count(False), len(held_out)) == (12, 12, 4)
    assert len({entry["id"] for entry in train + held_out}) == 28
    assert {entry["group"] for entry in train}.isdisjoint(entry["group"] for entry in held_out)
    assert summary.rejected == {}


@pytest.mark.parametrize("seed", range(6))
def test_repeated_rows_do_not_take_the_ids_of_held_out_ones(tmp_path: Path, seed: int) -> None:
    rows = [["audio", "text", "kind", "key"]]
    for index in range(12):
        record(tmp_path / f"{index}.wav", seed=index)
        rows.append([f"{index}.wav", "好", "often" if index else "rare", "k"])  # ids k, k-2, ..., k-12
    options = {"balance_column": "kind", "balance_mode": "upsample", "id_column": "key", "eval_ratio": 0.4}
    _, written = prepared(write_csv(tmp_path / "a.csv", rows), seed=seed, **options)
    ids = [entry["id"] for entry in written["train"] + written["eval"]]
    assert len(set(ids)) == len(ids)


def test_a_twentieth_is_held_out_for_evaluation_and_a_tenth_for_the_final_test(corpus: Path) -> None:
    prepare(PrepareConfig(csv=str(corpus), out=str(corpus.parent / "out")))
    written = {name: len(lines(corpus.parent / "out" / f"{name}.jsonl")) for name in ("train", "eval", "test")}
    assert written == {"train": 17, "eval": 1, "test": 2}


def test_an_evaluation_split_that_would_be_empty(corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"eval_ratio=0\.05: the eval split .* from 1 recording.*set eval_ratio=0"):
        prepare(config_for(corpus, group_pattern="meeting"))
    assert sorted(content(corpus.parent / "out")) == ["rejected.jsonl"]


def test_no_row_left(corpus: Path) -> None:
    with pytest.raises(UserError, match=r"no row is left .*\(too_short 20\).* line 2, 1\.000 s is shorter .*rejected"):
        prepare(config_for(corpus, min_seconds=2))
    assert len(lines(corpus.parent / "out" / "rejected.jsonl")) == 20


def test_one_recording_with_two_texts_is_refused_in_both_rows(corpus: Path) -> None:
    """Rows of a Kaldi-style table name one recording for all of its pieces."""
    with corpus.open("a", encoding="utf-8") as file:
        file.write("wav/meeting0_0.wav,另一句,often\n")
    summary, written = prepared(corpus, eval_ratio=0.0)
    assert summary.rejected == {"other_transcript": 2}
    assert [entry["line"] for entry in written["rejected"]] == [2, 22]
    detail = written["rejected"][0]["detail"]
    assert "the recording of line 22, which has the transcript '另一句'; if rows are segments of a recording" in detail


SEGMENTS = {"start_column": "start", "end_column": "end", "channel_column": "channel"}


def segments(folder: Path, *rows: str, **options: Any) -> tuple[PrepareSummary, dict[str, list[dict[str, Any]]]]:
    """Rows of one file ``a/x.wav`` (4 s, two channels) and of ``b/x.wav``, after those that are given."""
    for seed, name in enumerate("ab"):
        (folder / name).mkdir(exist_ok=True)
        noise = np.random.default_rng(seed).uniform(-0.5, 0.5, (4 * RATE, 2))
        soundfile.write(folder / name / "x.wav", noise, RATE)
    others = ["b/x.wav,0,1,0,尾一,丙", "b/x.wav,1,2.5,0,尾二,丁"]
    table = [row.split(",") for row in ("audio,start,end,channel,text,who", *rows, *others)]
    return prepared(write_csv(folder / "a.csv", table), **{**SEGMENTS, "eval_ratio": 0.5, **options})


def test_segments_of_a_recording_are_one_group_and_need_no_cutting(tmp_path: Path) -> None:
    rows = ["a/x.wav,0.50,1.25,0,一,甲", "a/x.wav,.75,2e0,1,二,乙", "a/x.wav,2,4.005,1,三,甲"]
    summary, written = segments(tmp_path, *rows, keep_columns=["who", "channel"])
    assert summary.rejected == {} and {name: split.groups for name, split in summary.splits.items()} == {
        "train": 1,
        "eval": 1,
    }
    found = {line["id"]: line for name in ("train", "eval") for line in written[name]}
    assert sorted(found) == ["x", "x-2", "x-3", "x-4", "x-5"]  # of files of one name
    assert [found[name]["group"] for name in sorted(found)] == ["x", "x", "x", "x-2", "x-2"]
    audio = {"role": "user", "message_type": "audio", "content": "../a/x.wav"}
    assert found["x"]["conversation"][1] == {**audio, "start": 0.5, "end": 1.25, "channel": 0}
    assert found["x-2"]["conversation"][1] == {**audio, "start": 0.75, "end": 2.0, "channel": 1}
    assert found["x-3"]["conversation"][1]["end"] == 4.005  # rounded up beyond the last sample
    assert found["x-2"]["columns"] == {"who": "乙", "channel": "1"}
    hours = sum(split.hours for split in summary.splits.values())
    assert hours == pytest.approx((0.75 + 1.25 + 2 + 1 + 1.5) / 3600, abs=2e-6)
    (train,) = (read_manifest(tmp_path / "out" / "train.jsonl"),)
    assert [conversation.columns for conversation in train] == [line["columns"] for line in written["train"]]


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ("0:01,2,0", "bad_segment", "column 'start' is '0:01'; it must be seconds from the recording's beginning"),
        ("1,,0", "bad_segment", "column 'end' is ''; it must be seconds"),
        ("nan,2,0", "bad_segment", "column 'start' is 'nan'"),
        ("-1,2,0", "bad_segment", "column 'start' is '-1'"),
        ("2,2.0,0", "bad_segment", "its end, 2 s, must come after its start, 2 s"),
        (
            "3,4.02,0",
            "bad_segment",
            "x.wav (3 s to 4.02 s, channel 0): its end lies beyond the recording's end at 4.000",
        ),
        ("1000,2000,0", "bad_segment", "(1000 s to 2000 s, channel 0): its end lies beyond"),
        ("4.001,4.002,0", "bad_segment", "it holds no sample at 8000 Hz"),
        ("0,1,2", "no_channel", "x.wav (0 s to 1 s, channel 2): the recording has 2 channels, numbered from 0"),
        ("0,1,left", "no_channel", "column 'channel' is 'left'; it must be a channel's number from 0"),
        ("0,1,", "no_channel", "column 'channel' is ''"),
        ("0,0.1,0", "too_short", "0.100 s is shorter than min_seconds=0.2"),
        ("1,2,0", "other_transcript", "which has the transcript '另'"),
    ],
)
def test_a_segment_that_is_none_is_told_why(tmp_path: Path, row: str, reason: str, detail: str) -> None:
    _, written = segments(tmp_path, f"a/x.wav,{row},一,甲", "a/x.wav,1,2,0,另,甲", max_refused=1.0, eval_ratio=0.0)
    refused = written["rejected"][0]
    assert (refused["line"], refused["reason"]) == (2, reason) and detail in refused["detail"]


def test_the_noise_of_each_segment_is_a_column_where_it_is_asked_for(tmp_path: Path) -> None:
    """Two seconds of bursts over a weak noise, and two of a steady one."""
    noise = np.random.default_rng(0).normal(size=4 * RATE)
    loudness = np.where(np.arange(4 * RATE) > 2 * RATE, 0.1, np.where(np.arange(4 * RATE) // 2000 % 2, 0.1, 0.001))
    soundfile.write(tmp_path / "x.wav", noise * loudness, RATE)
    rows = ["audio,start,end,text,who", "x.wav,0,2,一,甲", "x.wav,2,4,二,乙", "x.wav,2.2,3.9,三,乙"]
    table = write_csv(tmp_path / "a.csv", [row.split(",") for row in rows])
    given = {"start_column": "start", "end_column": "end", "keep_columns": ["who"], "eval_ratio": 0.0}
    found = [line["columns"] for line in prepared(table, **given, snr=True)[1]["train"]]
    assert [one["who"] for one in found] == ["甲", "乙", "乙"]
    assert float(found[0]["snr_db"]) > 25 and float(found[1]["snr_db"]) < 0 and found[2]["snr_db"] == ""  # 1.7 s
    assert [line["columns"] for line in prepared(table, **given)[1]["train"]] == [
        {"who": "甲"},
        {"who": "乙"},
        {"who": "乙"},
    ]
    named = write_csv(tmp_path / "b.csv", [["audio", "text", "snr_db"], ["x.wav", "一", "3"]])
    with pytest.raises(ConfigError, match=r"^snr=True: estimates a column snr_db, and keep_columns keeps one"):
        prepare(config_for(named, keep_columns=["2"], snr=True))


@pytest.mark.parametrize(("columns", "expected"), [([], "'-1度"), (["avg_logprob", "agreement"], "-1度")])
def test_only_the_quotes_of_our_own_csvs_are_taken_off(tmp_path: Path, columns: list[str], expected: str) -> None:
    record(tmp_path / "x.wav")
    table = write_csv(tmp_path / "a.csv", [["audio", "text", *columns], ["x.wav", "'-1度", *("" for _ in columns)]])
    assert list(texts(prepared(table, eval_ratio=0.0)[1]["train"])) == [expected]


def test_options_of_segments_and_columns(corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"^start_column='start': end_column is null.*Set both or neither"):
        config_for(corpus, start_column="start")
    with pytest.raises(ConfigError, match=r"^end_column='end': start_column is null"):
        config_for(corpus, end_column="end")
    with pytest.raises(ConfigError, match=r"^keep_columns='city': .*no column of that name; .*'audio', 'text', 'kind'"):
        prepare(config_for(corpus, keep_columns=["kind", "city"]))
    with pytest.raises(ConfigError, match=r"^channel_column='channel': .*no column of that name"):
        prepare(config_for(corpus, channel_column="channel"))
    with pytest.raises(ConfigError, match=r"^keep_columns=\['kind', '2'\]: names the column 'kind' twice"):
        prepare(config_for(corpus, keep_columns=["kind", "2"]))


def test_too_many_refused_rows_stop_before_a_manifest_is_written(corpus: Path) -> None:
    wrong = {"audio_pattern": "{csv_dir}/{kind}/{audio}"}
    (corpus.parent / "often").symlink_to(corpus.parent)
    with pytest.raises(UserError) as caught:
        prepare(config_for(corpus, **wrong))
    said = str(caught.value)
    assert "5 of 20 rows are refused, more than max_refused=0.2" in said
    assert f"missing_audio 5, such as line 2: {corpus.parent}/rare/wav/meeting0_0.wav: no such recording" in said
    assert sorted(content(corpus.parent / "out")) == ["rejected.jsonl"]
    assert prepare(config_for(corpus, max_refused=0.25, **wrong)).rejected == {"missing_audio": 5}


def test_a_manifest_of_an_earlier_run_does_not_survive(corpus: Path) -> None:
    prepare(config_for(corpus, test_ratio=0.2))
    prepare(config_for(corpus, test_ratio=0.0, seed=1))
    out = corpus.parent / "out"
    assert sorted(content(out)) == ["data.yaml", "eval.jsonl", "rejected.jsonl", "summary.json", "train.jsonl"]
    assert untokenized(out / "data.yaml") == [str(out / "train.jsonl"), str(out / "eval.jsonl")]


def test_recordings_on_another_tree_have_absolute_paths(tmp_path: Path) -> None:
    out = tmp_path / "work" / "out"
    out.mkdir(parents=True)
    near, far = record(tmp_path / "work" / "wav" / "a.wav"), record(tmp_path / "disk" / "a.wav")
    (tmp_path / "work" / "link").symlink_to(tmp_path / "disk")
    assert manifest_path(near, out) == "../wav/a.wav"
    assert manifest_path(far, out) == str(far)
    assert manifest_path(tmp_path / "work" / "link" / "a.wav", out) == str(far)


def test_absolute_cells_are_taken_as_they_are(tmp_path: Path) -> None:
    paths = [record(tmp_path / "disk" / f"{index}.wav", seed=index) for index in range(2)]
    (tmp_path / "work").mkdir()
    rows = [["audio", "text"], *([str(path), "好"] for path in paths)]
    _, written = prepared(write_csv(tmp_path / "work" / "a.csv", rows), eval_ratio=0.0)
    assert [entry["conversation"][1]["content"] for entry in written["train"]] == [str(path) for path in paths]


def test_an_unknown_field_in_the_audio_pattern(corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"\{day\} is none of \{csv_dir\}, \{audio\}, \{text\}, \{kind\}"):
        prepare(config_for(corpus, audio_pattern="{csv_dir}/{day}/{audio}"))


def test_numbers_avoid_names_that_exist() -> None:
    assert number_repeats(["a", "a", "a-2", "a", "b"], reserved=["a-3"]) == ["a", "a-4", "a-2", "a-5", "b"]


def test_a_failed_write_changes_no_file(disk_of: Callable[[int], Path]) -> None:
    folder = disk_of(64)
    (folder / "train.jsonl").write_text("old\n")
    with pytest.raises(UserError, match=r"eval\.jsonl: the disk is full"):
        write_lines_together(folder, {"train.jsonl": ["new\n"], "eval.jsonl": ["x" * 100_000]})
    assert content(folder) == {"train.jsonl": b"old\n"}


def test_the_four_real_recordings(shared_dir: Path, tmp_path: Path) -> None:
    rows = [["audio", "text"]]
    for entry in lines(shared_dir / "audio" / "librispeech_asr.jsonl"):
        _, audio, answer = entry["conversation"]
        rows.append([audio["content"], answer["content"]])
    table = write_csv(tmp_path / "a.csv", rows)
    pattern = {"audio_pattern": f"{shared_dir}/audio/{{audio}}", "id_column": "audio"}
    summary = prepare(config_for(table, eval_ratio=0.25, **pattern))
    assert summary.rejected == {}
    assert {name: split.segments for name, split in summary.splits.items()} == {"train": 3, "eval": 1}
    train = read_manifest(tmp_path / "out" / "train.jsonl")
    assert all(path.is_file() for conversation in train for path in conversation.audio_paths)
    assert {row[1] for row in rows[1:]} > {conversation.reference for conversation in train}
