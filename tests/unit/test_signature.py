"""Content addresses: what changes a product's name and what does not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.base_model import Base
from kimi_audio_ft.data.manifest import manifest_identity, read_manifest
from kimi_audio_ft.errors import DataError
from kimi_audio_ft.paths import TINY_MODEL
from kimi_audio_ft.schema import TrainConfig
from kimi_audio_ft.signature import (
    EXCLUDED,
    digest_of,
    file_digest,
    file_digests,
    flatten,
    folder_digest,
    signature,
    without,
)
from kimi_audio_ft.trial import EvaluationSet, Trial, decode

ADAPTER_GROUPS = ("data", "model", "lora", "optim", "trainer")

# Other valid values of the fields for which the type alone does not give one.
OTHER: dict[str, Any] = {
    "data.features": "cached",
    "data.prompt": "请听写。",
    "data.audio_root": "/",
    "data.augment.speeds": [1.0, 1.1],
    "data.augment.gains_db": [0.0, 3.0],
    "model.dtype": "bfloat16",
    "model.attention": "eager",
    "model.path": str(TINY_MODEL),
    "model.revision": "9a82a84c",
    "model.speech_tokenizer": str(TINY_MODEL / "glm-4-voice-tokenizer"),
    "lora.target_modules": "attention",
    "lora.init_lora_weights": "gaussian",
    "optim.schedule": "constant",
    "optim.loss_average": "token",
    "model.quantization": "nf4",
    "trainer.accelerator": "auto",
    "trainer.strategy": "ddp",
    "trainer.devices": 1,
    "trainer.deepspeed": {"wall_clock_breakdown": True},
    "trainer.max_steps": 3,
    "decoding.text_repetition_penalty": 1.2,
    "logger.kind": "csv",
    "logger.project": "other",
    "logger.entity": "team",
    "logger.mode": "offline",
    "logger.tags": ["a"],
}


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a config's fields; a field that is added later is there at once."""
    for field in dataclasses.fields(value):
        name, inner = f"{prefix}{field.name}", getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            yield from leaves(inner, f"{name}.")
        else:
            yield name, inner


def changed(config: Any, name: str, value: Any) -> Any:
    """A checked copy of a config with one dotted field changed."""
    first, _, rest = name.partition(".")
    return dataclasses.replace(config, **{first: changed(getattr(config, first), rest, value) if rest else value})


def other_value(name: str, value: Any) -> Any:
    if name in OTHER:
        return OTHER[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.5
    raise AssertionError(f"{name}={value!r}: give this new field another valid value in OTHER")


def names_of(*groups: str) -> list[str]:
    return [name for name, _ in leaves(TrainConfig()) if name.split(".")[0] in groups]


@pytest.fixture(scope="module")
def copies(coded_manifests: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same manifests at another place."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(coded_manifests, folder, dirs_exist_ok=True)
    return {f"data.{name}_manifest": str(folder / f"{name}.jsonl") for name in ("train", "eval")}


@pytest.fixture
def signatures(trial_config: Callable[..., TrainConfig], copies: dict[str, str]) -> Callable[[str], tuple[str, str]]:
    """Training signatures before and after one field is changed."""
    config = trial_config()

    def both(name: str) -> tuple[str, str]:
        value = copies.get(name) or other_value(name, dict(leaves(config))[name])
        return Trial(config).training_signature, Trial(changed(config, name, value)).training_signature

    return both


@pytest.mark.parametrize("name", [*names_of(*ADAPTER_GROUPS), "seed"])
def test_every_field_of_the_training_counts_unless_it_is_excluded(
    signatures: Callable[[str], tuple[str, str]], name: str
) -> None:
    before, after = signatures(name)
    excluded = any(name == entry or name.startswith(f"{entry}.") for entry in EXCLUDED["adapter"])
    assert (before == after) == excluded


@pytest.mark.parametrize("name", [*names_of("decoding", "logger"), "baseline"])
def test_decoding_and_tracking_never_retrain(signatures: Callable[[str], tuple[str, str]], name: str) -> None:
    before, after = signatures(name)
    assert before == after


def test_excluded_names_exist() -> None:
    known = set(names_of(*ADAPTER_GROUPS, "decoding")) | {"data.augment"}
    for stage, names in EXCLUDED.items():
        assert set(names) <= known, stage


def test_every_group_is_covered() -> None:
    """A new config group has to be put on one side or the other."""
    groups = {field.name for field in dataclasses.fields(TrainConfig)}
    assert groups == {*ADAPTER_GROUPS, "seed", "decoding", "logger", "baseline"}


def test_the_same_step_on_more_processes_is_the_same_training(trial_config: Callable[..., TrainConfig]) -> None:
    def name(**trainer: Any) -> str:
        return Trial(trial_config(trainer=trainer)).training_signature

    alone = name(accumulate=8)
    assert name(accumulate=4, strategy="ddp", devices=2) == alone == name(accumulate=2, strategy="fsdp", devices=4)
    assert name(accumulate=8, strategy="ddp", devices=2) == name(accumulate=16) != alone


class TestInputs:
    def test_a_changed_manifest(self, trial_config: Callable[..., TrainConfig], coded_manifests: Path) -> None:
        config = trial_config()
        before = Trial(config).training_signature
        shorter = coded_manifests.parent / "shorter.jsonl"
        lines = (coded_manifests / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        shorter.write_text("".join(lines[:-1]), encoding="utf-8")
        assert Trial(changed(config, "data.train_manifest", str(shorter))).training_signature != before

    def test_a_changed_answer_or_code(self, coded_manifests: Path, tmp_path: Path) -> None:
        rows = [json.loads(line) for line in (coded_manifests / "train.jsonl").read_text(encoding="utf-8").splitlines()]

        def identity() -> str:
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / "m.jsonl").write_text(text)
            return manifest_identity(read_manifest(tmp_path / "m.jsonl"))

        seen = {identity()}
        rows[3]["conversation"][2]["content"] += "。"
        seen.add(identity())
        rows[3]["conversation"][1]["audio_tokens"].append(1467)
        seen.add(identity())
        rows.reverse()
        seen.add(identity())
        assert len(seen) == 4

    def test_a_changed_base(self, trial_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
        base = tmp_path / "base"
        shutil.copytree(TINY_MODEL, base)
        config = trial_config(model={"path": str(base)})
        before = Trial(config).training_signature
        assert before == Trial(trial_config()).training_signature
        description = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(description | {"rms_norm_eps": 1e-5}))
        assert Trial(config).training_signature != before

    def test_encoders_count_only_where_features_are_used(
        self, trial_config: Callable[..., TrainConfig], tmp_path: Path
    ) -> None:
        base = tmp_path / "base"
        shutil.copytree(TINY_MODEL, base)

        def of(features: str) -> str:
            return Trial(trial_config(model={"path": str(base)}, data={"features": features})).training_signature

        before = {features: of(features) for features in ("none", "cached", "online")}
        path = base / "whisper-large-v3" / "config.json"
        path.write_text(path.read_text() + "\n")
        assert {features for features in before if of(features) != before[features]} == {"cached", "online"}


class TestTranscripts:
    """Which decoding settings make a new transcript. (Trainings are not involved: the base alone is decoded.)"""

    @pytest.fixture
    def sign(self, trial_config: Callable[..., TrainConfig]) -> Callable[..., list[str]]:
        def make(seed: int = 1, **decoding: Any) -> list[str]:
            config = trial_config(decoding={"max_new_tokens": 1, "text_temperature": 0.5, "text_top_k": 5} | decoding)
            base = Base(config.model, config.data.features, "cpu")
            return decode(base, EvaluationSet(base, config.data), config.decoding, seed, None).signatures

        return make

    def test_settings_that_change_results(self, sign: Callable[..., list[str]]) -> None:
        variants = [
            sign(),
            sign(text_temperature=0.6),
            sign(text_top_k=4),
            sign(text_repetition_penalty=1.1),
            sign(text_repetition_window_size=8),
            sign(max_new_tokens=2),
            sign(seed=2),
        ]
        assert len({names[0] for names in variants}) == len(variants)

    def test_batch_size_does_not(self, sign: Callable[..., list[str]]) -> None:
        assert sign(batch_size=2) == sign()

    def test_more_repeats_keep_the_first(self, sign: Callable[..., list[str]]) -> None:
        three = sign(repeats=3)
        assert len(set(three)) == 3 and sign() == three[:1]

    def test_greedy_is_one_transcript_whatever_would_be_drawn(self, sign: Callable[..., list[str]]) -> None:
        greedy = sign(text_temperature=0.0)
        assert len(greedy) == 1
        assert greedy == sign(text_temperature=0.0, text_top_k=0, repeats=4) == sign(text_temperature=0.0, seed=9)


class TestDigests:
    def test_same_for_every_key_order_and_process(self) -> None:
        facts = {"b": [1, 2.5, None, True], "a": {"é": "字"}}
        assert digest_of(facts) == digest_of(dict(reversed(facts.items()))) == "1258c60f0e30a323"
        assert digest_of({"a": 1}) != digest_of({"a": "1"})

    def test_stage_and_inputs_count(self) -> None:
        config = {"lora": {"r": 8}}
        names = {
            signature("adapter", config, {}),
            signature("transcript", config, {}),
            signature("adapter", config, {"base": "x"}),
        }
        assert len(names) == 3 and all(len(name) == 16 for name in names)

    def test_without(self) -> None:
        config = {"data": {"a": 1, "augment": {"speeds": [1], "masks": 2}}, "seed": 1}
        assert without(config, ["data.a", "data.augment.masks"]) == {"data": {"augment": {"speeds": [1]}}, "seed": 1}
        assert without(config, ["data.augment", "seed"]) == {"data": {"a": 1}}
        assert config["data"]["a"] == 1

    def test_flatten(self) -> None:
        assert flatten({"lora": {"r": 8, "deep": {"x": [1]}}, "seed": 1}) == {
            "lora.r": 8,
            "lora.deep.x": [1],
            "seed": 1,
        }

    def test_changed_file_of_the_same_size(self, tmp_path: Path) -> None:
        path = tmp_path / "a.bin"
        path.write_bytes(b"one")
        before = file_digest(path)
        status = path.stat()
        path.write_bytes(b"two")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
        assert file_digest(path) != before
        path.write_bytes(b"one")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 2_000_000))
        assert file_digest(path) == before == hashlib.sha256(b"one").hexdigest()

    def test_remembered_for_other_processes(self, private_store: Path, tmp_path: Path) -> None:
        """A digest is read from the store and not computed again: a planted one shows where it came from."""
        path = tmp_path / "a.bin"
        path.write_bytes(b"one")
        file_digest(path)
        code = (
            "import sqlite3, sys; from pathlib import Path; from kimi_audio_ft.signature import file_digest\n"
            "db = sqlite3.connect(sys.argv[1]); db.execute(\"UPDATE digests SET sha256 = 'planted'\"); db.commit()\n"
            "print(file_digest(Path(sys.argv[2])))\n"
            "Path(sys.argv[2]).write_bytes(b'longer')\n"
            "print(file_digest(Path(sys.argv[2])))\n"
        )
        command = [sys.executable, "-c", code, str(private_store / "digests.sqlite"), str(path)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert lines == ["planted", hashlib.sha256(b"longer").hexdigest()]

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"nothing\.wav: cannot be read \(No such file"):
            file_digest(tmp_path / "nothing.wav")

    @pytest.fixture
    def many(self, tmp_path: Path) -> list[Path]:
        """More files than are looked up at once, in two folders and through links, one of them twice."""
        paths = [tmp_path / f"{number % 2}" / f"{number}.bin" for number in range(1203)]
        for number, path in enumerate(paths):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"%d" % number)
        (tmp_path / "link.bin").symlink_to(paths[3])
        (tmp_path / "folder").symlink_to(tmp_path / "1")
        return [*paths, tmp_path / "link.bin", tmp_path / "folder" / "7.bin", paths[5]]

    def test_many_files_at_once(self, private_store: Path, many: list[Path]) -> None:
        digests = file_digests(many)
        assert digests == [hashlib.sha256(path.read_bytes()).hexdigest() for path in many]
        assert file_digests(list(map(str, many))) == digests == [file_digest(path) for path in many]
        with closing(sqlite3.connect(private_store / "digests.sqlite")) as memory, memory:
            assert memory.execute("SELECT count(*) FROM digests").fetchone() == (1203,)  # links are no files
            memory.execute("UPDATE digests SET sha256 = 'planted' || sha256")
        many[1].write_bytes(b"longer")
        expected = [f"planted{digest}" for digest in digests]
        expected[1] = hashlib.sha256(b"longer").hexdigest()
        assert file_digests(many) == expected and file_digests([]) == []

    def test_without_a_memory_files_are_hashed(self, private_store: Path, many: list[Path]) -> None:
        private_store.write_text("no folder")
        assert file_digests(many[-3:]) == [hashlib.sha256(path.read_bytes()).hexdigest() for path in many[-3:]]
        private_store.unlink()
        private_store.mkdir()
        (private_store / "digests.sqlite").write_text("no database " * 1000)
        assert file_digests(many[:1]) == [hashlib.sha256(b"0").hexdigest()]

    def test_a_bad_file_among_many(self, many: list[Path]) -> None:
        many[800].unlink()
        with pytest.raises(DataError, match=r"800\.bin: cannot be read \(No such file"):
            file_digests(many)
        many[800].mkdir()
        with pytest.raises(DataError, match=r"800\.bin: cannot be read \(Is a directory"):
            file_digests(many)

    def test_folder(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        before = folder_digest(tmp_path)
        (tmp_path / "notes.txt").write_text("not part of a model")
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "config.json").write_text("1")
        assert folder_digest(tmp_path) == before
        (tmp_path / "config.json").rename(tmp_path / "other.json")
        renamed = folder_digest(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"1")
        assert len({before, renamed, folder_digest(tmp_path)}) == 3

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"gone: no such folder\. Check model\.path"):
            folder_digest(tmp_path / "gone")
