"""Everything a person can get wrong, through the real commands: one `error:` line that says where, what and what to do.

The rules themselves are tested beside their modules; here it is that they reach the terminal, with exit code 2.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kimi_audio_ft.files import read_jsonl, write_jsonl
from tests.integration.conftest import SHORT, Workplace

TRAIN, EVALUATE = "kimi_audio_ft.train", "kimi_audio_ft.evaluate"
TOKENIZE, PREPARE = "kimi_audio_ft.tokenize", "kimi_audio_ft.prepare"


def assert_refused(outcome: Any, *parts: str) -> None:
    """Exit code 2, one error on stderr that holds all parts, and no traceback or line of Hydra's own."""
    assert outcome.code == 2, outcome.err
    assert outcome.err.startswith(("error: ", "Checking recordings ")), outcome.err
    assert outcome.err.count("error: ") == 1
    assert "Traceback" not in outcome.out + outcome.err
    for part in parts:
        assert part in outcome.err, outcome.err


OPTIONS = [
    (TRAIN, ["lora.rank=4"], ["lora.rank: there is no such option", "Did you mean lora.r"]),
    # Hydra's own advice for the line above, which Hydra then takes and nothing reads.
    (TRAIN, ["+lora.rank=4"], ["lora.rank: there is no such option", "lora.r"]),
    (TRAIN, ["loar.r=4"], ["loar.r: there is no such option", "lora.r"]),
    (TRAIN, ["loar=attention"], ["loar: there is no such option", "lora"]),
    (TRAIN, ["temperature=0"], ["temperature: there is no such option", "decoding.text_temperature"]),
    (TRAIN, ["frobnicate=1"], ["frobnicate: there is no such option", "--help"]),
    (TRAIN, ["r=4"], ["r: there is no such option", "lora.r"]),
    (
        TRAIN,
        ["lora=decodr"],
        ["lora=decodr", "no such choice", "attention, decoder, decoder_adaptor_whisper, decoder_and_adaptor, report"],
    ),
    (TRAIN, ["lora=8"], ["a group takes the name of one of its choices", "lora=decoder"]),
    (TRAIN, ["+experiments=nope"], ["experiments=nope", "demo"]),
    (TRAIN, ["lora.r=abc"], ["lora.r=abc", "Integer"]),
    (TRAIN, ["trainer.progress=maybe"], ["trainer.progress=maybe", "bool"]),
    (TRAIN, ["lora.r=2,4"], ["lora.r=2,4", "Add -m to sweep"]),
    (TRAIN, ["-m", "lora.r=2,"], ["lora.r=2,", "comma"]),
    (TRAIN, ["-m", "lora.r=2,x"], ["lora.r=x", "Integer"]),
    (TRAIN, ["data.prompt=转写,"], ["data.prompt=转写,", "ends in a comma"]),
    (TRAIN, ["data.train_manifest=语料(1).jsonl"], ["data.train_manifest='语料(1).jsonl'", "there is no such file"]),
    (TRAIN, ["lora.r"], ["'lora.r'", "OPTION=VALUE"]),
    (TRAIN, ["lora.r=0"], ["lora.r=0", "1 or more"]),
    (TRAIN, ["-m", "scoring.erhua=true,false"], ["scoring.erhua=False", "True in trial 0", "Give it one value"]),
    (TRAIN, ["optim.lr=inf"], ["optim.lr=inf"]),
    (TRAIN, ["model.path=/nowhere/at/all"], ["model.path='/nowhere/at/all'", "config.json", "Download"]),
    (
        TRAIN,
        ["model=kimi_audio_7b"],
        ["model.path='moonshotai/Kimi-Audio-7B'", "neither a folder", "model.path=FOLDER"],
    ),
    (TRAIN, ["model.speech_tokenizer=/nowhere"], ["model.speech_tokenizer='/nowhere'", "must be a folder"]),
    (TRAIN, ["data.train_manifest=nope.jsonl"], ["data.train_manifest='nope.jsonl'", "no such file", "tokenize"]),
    (TRAIN, ["data.eval_manifest=data"], ["data.eval_manifest='data'", "no such file"]),
    (TRAIN, ["data=manifests"], ["data.eval_manifest", "must name a pretokenized manifest"]),
    (TRAIN, ["lora.target_modules=nothing_like_it"], ["lora.target_modules='nothing_like_it'", "matches none"]),
    (TRAIN, ["lora=report"], ["lora.target_modules='report'", "data.features=online"]),
    (
        TRAIN,
        ["lora=decoder_adaptor_whisper"],
        ["lora.target_modules='decoder_adaptor_whisper'", "features then change", "data.features=online"],
    ),
    (
        TRAIN,
        ["lora=decoder_and_adaptor", "data.features=none"],
        ["lora.target_modules='decoder_and_adaptor'", "idle", "cached or online"],
    ),
    (TRAIN, ["data.max_length=5"], ["data.max_length=5", "Raise it"]),
    (EVALUATE, ["adapter=nope"], ["adapter='nope'", "store ls"]),
    (EVALUATE, ["adapter=data"], ["data/adapter_config.json", "no such file"]),
    (TOKENIZE, [], ["manifests=[]", "manifests=[train.jsonl,eval.jsonl]"]),
    (TOKENIZE, ["manifests=nowhere.yaml"], ["there is no such file", "Write manifests=FOLDER"]),
    (TRAIN, ["data=./data/none"], ["there is no such file, or folder with data.yaml", "docs/data.md"]),
    (TOKENIZE, ["manifests=[nope.jsonl]"], ["nope.jsonl", "cannot be read"]),
    (PREPARE, [], ["csv: has no value", "csv=..."]),
    (PREPARE, ["csv=nope.csv", "out=x"], ["nope.csv", "cannot read"]),
]


@pytest.mark.parametrize(
    ("module", "overrides", "parts"), OPTIONS, ids=[" ".join(case[1]) or case[0] for case in OPTIONS]
)
def test_option(workplace: Workplace, module: str, overrides: list[str], parts: list[str]) -> None:
    rest = {TRAIN: SHORT, EVALUATE: SHORT[1:2]}.get(module, ()) if "=manifests" not in str(overrides) else ()
    # a repeated option's last value counts
    assert_refused(workplace.run(module, *rest, *overrides), *parts)


def _audio(row: dict[str, Any]) -> dict[str, Any]:
    return row["conversation"][1]


# A line as it is, or how a good one is changed.
LINES: dict[str, tuple[str | Callable[[dict[str, Any]], object], list[str]]] = {
    "cut": ('{"task_type": "understanding", "conver', ["is not JSON", "One JSON object a line"]),
    "a list": ("[]", ["is not a JSON object"]),
    "no conversation": (lambda row: row.pop("conversation"), ["'conversation' is missing"]),
    "no role": (lambda row: row["conversation"][0].pop("role"), ["message 0", "'role' is missing"]),
    "role": (lambda row: row["conversation"][0].update(role="doctor"), ["message 0", "role is 'doctor'", "one of"]),
    "message type": (
        lambda row: row["conversation"][0].update(message_type="video"),
        ["message 0", "message_type is 'video'", "one of"],
    ),
    "no codes": (
        lambda row: _audio(row).pop("audio_tokens"),
        ["audio_tokens are missing", "Run python -m kimi_audio_ft.tokenize"],
    ),
    "codes of the 7B model": (
        lambda row: _audio(row).update(audio_tokens=[152_064 + 7]),
        ["152071", "outside this model's range", "another model", "kimi_audio_ft.tokenize"],
    ),
    "too few codes": (
        lambda row: _audio(row)["audio_tokens"].pop(),
        ["audio_tokens for", "whose audio gives", "kimi_audio_ft.tokenize"],
    ),
    "no answer": (lambda row: row["conversation"].pop(), ["assistant", "Add the transcript"]),
    "no recording": (lambda row: _audio(row).update(content="gone.wav"), ["gone.wav"]),
}


# In turn in the one and the other manifest, which are read alike.
@pytest.mark.parametrize(("case", "manifest"), [*zip(LINES, itertools.cycle(["train", "eval"]), strict=False)])
def test_manifest_line(workplace: Workplace, case: str, manifest: str) -> None:
    spoilt, parts = LINES[case]
    path = workplace.folder / "data" / f"{manifest}.tokens.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    row = json.loads(lines[1])
    if not isinstance(spoilt, str):
        spoilt(row)
    lines[1] = spoilt if isinstance(spoilt, str) else json.dumps(row, ensure_ascii=False)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert_refused(workplace.run(TRAIN, *SHORT), f"data/{manifest}.tokens.jsonl:2: ", *parts)
    assert not list((workplace.store / "adapter").glob("[!.]*"))


def test_manifest_in_another_encoding(workplace: Workplace) -> None:
    path = workplace.folder / "data" / "eval.tokens.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_bytes(text.encode("gbk"))
    assert_refused(workplace.run(TRAIN, *SHORT), "data/eval.tokens.jsonl:1: ", "not UTF-8", "Convert")


def test_manifest_that_was_not_tokenized(workplace: Workplace) -> None:
    done = workplace.run(EVALUATE, "data.eval_manifest=data/eval.jsonl")
    assert_refused(done, "data/eval.jsonl:1: ", "audio_tokens are missing", "Run python -m kimi_audio_ft.tokenize")


def _one_clip(workplace: Workplace, write: Callable[[Path], object]) -> None:
    """A manifest of one line about a recording that ``write`` makes."""
    write(workplace.folder / "clip.wav")
    row = read_jsonl(workplace.folder / "data" / "train.jsonl")[0]
    _audio(row)["content"] = str(workplace.folder / "clip.wav")
    write_jsonl(workplace.folder / "one.jsonl", [row])


BAD_AUDIO: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no samples": (lambda path: soundfile.write(path, np.zeros(0, np.float32), 16_000), ["0 samples"]),
    "NaN": (
        lambda path: soundfile.write(path, np.full(16_000, np.nan, np.float32), 16_000, "FLOAT"),
        ["one.jsonl:1: ", "NaN"],
    ),
    "text": (lambda path: path.write_text("not sound"), ["not a readable recording", "ffmpeg"]),
    "missing": (lambda path: None, ["clip.wav"]),
}


@pytest.mark.parametrize("case", BAD_AUDIO)
def test_recording(workplace: Workplace, case: str) -> None:
    write, parts = BAD_AUDIO[case]
    _one_clip(workplace, write)
    assert_refused(workplace.run(TOKENIZE, "manifests=[one.jsonl]", "progress=false"), "clip.wav", *parts)
    assert not (workplace.folder / "one.tokens.jsonl").exists()


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2)])
def test_other_rates_and_stereo_are_converted(workplace: Workplace, rate: int, channels: int) -> None:
    sound = 0.3 * np.sin(np.arange(2 * rate) * 2 * np.pi * 300 / rate)
    _one_clip(workplace, lambda path: soundfile.write(path, np.stack([sound] * channels, 1), rate))
    assert workplace.run(TOKENIZE, "manifests=[one.jsonl]", "progress=false").code == 0
    (row,) = read_jsonl(workplace.folder / "one.tokens.jsonl")
    assert len(_audio(row)["audio_tokens"]) == 25  # 2 s of 80 ms


def test_evaluation_split_that_would_be_empty(corpus: Path, workplace: Workplace) -> None:
    cells = (corpus / "corpus.csv").read_text(encoding="utf-8-sig").splitlines()
    one_recording = [cells[0], *(line for line in cells[1:] if "meeting_001_" in line)]
    (workplace.folder / "one.csv").write_text("\n".join(one_recording) + "\n", encoding="utf-8")
    options = ("csv=one.csv", "out=new", f"'audio_pattern=\"{corpus}/{{audio}}\"'".strip("'"))
    done = workplace.run(PREPARE, *options, "group_column=recording", "eval_ratio=0.5", "test_ratio=0")
    assert_refused(done, "eval_ratio=0.5", "group")
    assert not (workplace.folder / "new" / "train.jsonl").exists()


def test_adapter_of_another_shape(workplace: Workplace) -> None:
    from safetensors.torch import load_file, save_file

    assert workplace.run(TRAIN, *SHORT, "trainer.max_steps=1", "lora.r=2", "baseline=false").code == 0
    (stored,) = (workplace.store / "adapter").glob("[!.]*")
    other = workplace.folder / "other"
    other.mkdir()
    (other / "adapter_config.json").write_bytes((stored / "adapter_config.json").read_bytes())
    weights = load_file(stored / "adapter_model.safetensors")
    wider = {name: tensor.repeat(1, 2) if "lora_A" in name else tensor for name, tensor in weights.items()}
    save_file(wider, other / "adapter_model.safetensors")
    done = workplace.run(EVALUATE, "data.eval_manifest=data/eval.tokens.jsonl", "adapter=other")
    assert_refused(done, "other: ", "does not fit the base", "model.path")


@pytest.fixture
def small_disk(workplace: Workplace) -> Iterator[Callable[[str], None]]:
    """Puts the store on a file system of a given size; called again, changes the size."""
    mounted = False

    def resize(size: str) -> None:
        nonlocal mounted
        options = f"remount,size={size}" if mounted else f"size={size}"
        workplace.store.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(workplace.store)]
        try:
            subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a small disk cannot be mounted here: {getattr(error, 'stderr', error)}")
        mounted = True

    yield resize
    if mounted:
        subprocess.run(["umount", str(workplace.store)], check=True)


def test_disk_too_small_for_the_features(workplace: Workplace, small_disk: Callable[[str], None]) -> None:
    command = (TOKENIZE, "manifests=[data/train.jsonl]", "out=tokens", "progress=false")
    small_disk("192k")
    refused = workplace.run(*command)
    remedies = ("KIMI_AUDIO_FT_STORE", "features=false", "data.features=online")
    assert_refused(refused, str(workplace.store), "9 recordings", "do not fit", "free", *remedies)
    assert not (workplace.folder / "tokens").exists() and not any((workplace.store / "features").glob("[!.]*"))
    workplace.succeed(*command, "features=false")
    small_disk("8m")
    workplace.succeed(*command)


@pytest.mark.parametrize("save_every", [1, 1000], ids=["at a checkpoint", "at the end"])
def test_full_disk_while_training(workplace: Workplace, small_disk: Callable[[str], None], save_every: int) -> None:
    small_disk("1m")
    command = (TRAIN, *SHORT, "data.features=none", "lora.r=64", f"trainer.save_every={save_every}", "baseline=false")
    assert_refused(workplace.run(*command), str(workplace.store), "disk is full", "again")
    left = [path for path in (workplace.store / "adapter").rglob("*") if path.is_file() and path.stat().st_size]
    assert not left
    small_disk("64m")
    assert workplace.run(*command).code == 0


def test_full_disk_of_the_outputs(workplace: Workplace, small_disk: Callable[[str], None]) -> None:
    """Hydra's own files and the trial's lie outside of the store."""
    small_disk("4k")
    done = workplace.run(TRAIN, *SHORT, "hydra.run.dir=store/outputs")
    assert_refused(done, "the folder of the outputs: cannot be written", "No space left")


def test_processes_end_with_code_2_and_say_why_on_stderr(workplace: Workplace) -> None:
    quick = workplace.run_apart(TRAIN, "lora.r=0")
    assert_refused(quick, "lora.r=0: the rank must be 1 or more")
    assert quick.out == ""
    (failure,) = (workplace.folder / "outputs" / "train").glob("*/*/failure.json")
    assert "the rank must be 1" in json.loads(failure.read_text(encoding="utf-8"))["message"]
    late = workplace.run_apart(TRAIN, *SHORT, "data.eval_manifest=data/eval.jsonl")
    assert_refused(late, "data/eval.jsonl:1: ", "tokenize")


def test_traceback_on_request(workplace: Workplace) -> None:
    asked = workplace.run_apart(TRAIN, "lora.r=0", KIMI_AUDIO_FT_TRACEBACK="1")
    assert asked.code != 0
    assert "Traceback" in asked.err and "__post_init__" in asked.err and "lora.r=0: the rank" in asked.err


def test_folder_that_cannot_be_written(workplace: Workplace) -> None:
    (workplace.folder / "outputs").write_text("a file where Hydra wants a folder")
    done = workplace.run(TOKENIZE, "manifests=[data/train.jsonl]")
    assert_refused(done, "outputs", "cannot be written")
