"""``sweep=FOLDER``: options of the recommended trial, beneath those that are given."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from kimi_audio_ft.base import find_adapter
from kimi_audio_ft.config.prompt import HotwordsConfig
from kimi_audio_ft.config.train import DecodingConfig, EvaluateConfig, TrainConfig, VllmConfig
from kimi_audio_ft.config.transcribe import SpeechConfig, TranscribeConfig
from kimi_audio_ft.errors import ConfigError, DataError
from kimi_audio_ft.files import write_json, write_jsonl
from kimi_audio_ft.transcribe.recommended import with_recommended
from tests.unit.conftest import answer, audio, line, user


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep whose second trial is recommended."""
    config = TrainConfig(seed=5)
    config.model.dtype, config.data.prompt, config.data.features = "float32", "听写", "none"
    config.decoding.text_temperature, config.decoding.repeats = 0.2, 4
    (tmp_path / "1" / ".hydra").mkdir(parents=True)
    (tmp_path / "1" / ".hydra" / "config.yaml").write_text(yaml.safe_dump(asdict(config)), encoding="utf-8")
    write_trials(tmp_path, recommended="a2")
    return tmp_path


def write_trials(folder: Path, recommended: str) -> None:
    def entry(signature: str, place: str, kind: str = "trial") -> dict[str, Any]:
        told = {"signature": signature, "kind": kind, "recommended": signature == recommended}
        return told | {"paths": {"folder": place}}

    trials = [entry("a1", "0"), entry("a2", "1")]
    write_json(folder / "trials.json", {"trials": trials, "baselines": [entry("base", "1", "baseline")]})


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def completed(sweep: Path, *overrides: str, **options: Any) -> TranscribeConfig:
    return with_recommended(TranscribeConfig(audio="a", out="b", sweep=str(sweep), **options), overrides)


def test_everything_that_the_trial_was_tried_with(sweep: Path) -> None:
    config = completed(sweep, "audio=a", "out=b")
    assert (config.adapter, config.sweep, config.seed) == (str(sweep), None, 5)
    assert (config.model.dtype, config.data.prompt, config.data.features) == ("float32", "听写", "none")
    assert (config.decoding.text_temperature, config.decoding.repeats) == (0.2, 4)


def test_a_sweep_of_evaluate_is_none_of_train(sweep: Path) -> None:
    path = sweep / "1" / ".hydra" / "config.yaml"
    path.write_text(yaml.safe_dump(asdict(EvaluateConfig())), encoding="utf-8")
    with pytest.raises(DataError, match=f"^{path}: is the config of an evaluation.*or name the adapter"):
        completed(sweep)


def test_paths_of_the_trial_are_from_where_the_sweep_was_started(
    sweep: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    started = tmp_path_factory.mktemp("started")
    (started / "my" / "merged").mkdir(parents=True)
    (started / "tiny").mkdir()
    hydra = {"hydra": {"runtime": {"cwd": str(started)}}}
    (sweep / "1" / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(hydra), encoding="utf-8")
    path = sweep / "1" / ".hydra" / "config.yaml"
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    for given, wanted in (
        ("my/merged", str(started / "my" / "merged")),
        ("tiny", "tiny"),
        ("moonshotai/Kimi-Audio-7B", "moonshotai/Kimi-Audio-7B"),
        (str(sweep), str(sweep)),
    ):
        written["model"] |= {"path": given, "speech_tokenizer": None if given == "tiny" else given}
        path.write_text(yaml.safe_dump(written), encoding="utf-8")
        model = completed(sweep).model
        assert (model.path, model.speech_tokenizer) == (wanted, None if given == "tiny" else wanted)


def test_hot_words_of_the_trial(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    started = tmp_path_factory.mktemp("started")
    hydra = {"hydra": {"runtime": {"cwd": str(started)}}}
    (sweep / "1" / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(hydra), encoding="utf-8")
    path = sweep / "1" / ".hydra" / "config.yaml"
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert completed(sweep).prompt == HotwordsConfig()
    written["prompt"]["hotwords"] = "my/terms.txt"
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    assert completed(sweep).prompt == HotwordsConfig(str(started / "my" / "terms.txt"))
    assert completed(sweep, "prompt=official").prompt == HotwordsConfig(str(started / "my" / "terms.txt"))
    assert completed(sweep, "prompt.hotwords=null").prompt == HotwordsConfig()


def test_what_is_given_stays(sweep: Path) -> None:
    given = {"decoding": DecodingConfig(batch_size=2), "data": SpeechConfig(prompt="转录"), "seed": 1}
    config = completed(sweep, "+decoding.batch_size=2", "data.prompt=转录", "seed=1", **given)
    assert (config.decoding.repeats, config.decoding.batch_size) == (4, 2)
    assert (config.data.prompt, config.data.features, config.seed) == ("转录", "none", 1)
    config = completed(sweep, "decoding=greedy", "model=tiny", "prompt=chinese")
    assert (config.decoding.text_temperature, config.model.dtype, config.data.prompt) == (0.0, "bfloat16", None)
    assert config.data.features == "none"


def test_the_base_alone_is_recommended(sweep: Path) -> None:
    write_trials(sweep, recommended="base")
    config = completed(sweep)
    assert config.adapter is None and config.model.dtype == "float32"


def test_the_base_alone_has_the_prompt_that_it_was_evaluated_with(
    sweep: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    started, path = tmp_path_factory.mktemp("started"), sweep / "1" / ".hydra" / "config.yaml"
    write_yaml(sweep / "1" / ".hydra" / "hydra.yaml", {"hydra": {"runtime": {"cwd": str(started)}}})
    write_jsonl(started / "b.jsonl", [line("1", user("写下来"), audio("a.wav"), answer("好"))])
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    written["data"] |= {"prompt": None, "eval_manifest": {"gone": "gone.jsonl", "b": "b.jsonl"}}
    write_yaml(path, written)
    assert completed(sweep).data.prompt is None, "the adapter's record names its own"
    write_trials(sweep, recommended="base")
    assert completed(sweep).data.prompt == "写下来"
    given = {"data": SpeechConfig(prompt="转录")}
    assert completed(sweep, "data.prompt=转录", **given).data.prompt == "转录"


def test_a_sweep_names_its_adapter_to_every_command(sweep: Path, private_store: Path) -> None:
    adapter = private_store / "adapter" / "a2"
    with pytest.raises(DataError, match=r"recommends the adapter a2, which is not in the store .*Set KIMI_AUDIO"):
        find_adapter(str(sweep))
    adapter.mkdir(parents=True)
    write_json(adapter / "product.json", {"hashes": {}})
    assert find_adapter(str(sweep)) == ("a2", adapter)
    write_trials(sweep, recommended="base")
    with pytest.raises(ConfigError, match=r"adapter=.*is a sweep that recommends the base alone\. Name one"):
        find_adapter(str(sweep))


def test_a_sweep_without_a_verdict(sweep: Path) -> None:
    write_trials(sweep, recommended="none")
    with pytest.raises(DataError, match=r"trials\.json: names no recommended trial\. Run python -m multirun_analysis"):
        completed(sweep)
    (sweep / "trials.json").unlink()
    with pytest.raises(DataError, match=r"trials\.json: cannot be read .*Run python -m multirun_analysis"):
        completed(sweep)


def test_hydras_own_folder_may_have_another_name_or_none(sweep: Path) -> None:
    """As hydra.output_subdir says."""
    write_yaml(sweep / "1" / ".hydra" / "hydra.yaml", {})
    (sweep / "1" / ".hydra").rename(sweep / "1" / "cfg")
    assert completed(sweep).decoding.repeats == 4
    shutil.rmtree(sweep / "1" / "cfg")
    with pytest.raises(DataError, match=r"config\.yaml: cannot be read .*again, without hydra\.output_subdir=null"):
        completed(sweep)


def test_without_a_sweep_nothing_changes() -> None:
    config = TranscribeConfig(audio="a", out="b", adapter="a7")
    assert with_recommended(config, []) is config


def test_what_is_given_of_vllm_stays_beside_what_the_trial_has(
    sweep: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The trial's own environment may be gone, and its sweep have been started elsewhere."""
    started = tmp_path_factory.mktemp("started")
    write_yaml(sweep / "1" / ".hydra" / "hydra.yaml", {"hydra": {"runtime": {"cwd": str(started)}}})
    path = sweep / "1" / ".hydra" / "config.yaml"
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    options = {"seed": 1, "compilation_config": {"level": 0}}
    written["decoding"] |= {"engine": "vllm", "vllm": {"python": "gone/bin/python", "options": options}}
    write_yaml(path, written)
    assert completed(sweep).decoding.vllm == VllmConfig(str(started / "gone" / "bin" / "python"), options)

    own = DecodingConfig(engine="vllm", vllm=VllmConfig("mine/bin/python"))
    given = completed(sweep, "decoding.engine=vllm", "decoding.vllm.python=mine/bin/python", decoding=own).decoding
    assert given.vllm == VllmConfig("mine/bin/python", options) and given.repeats == 4
    own = DecodingConfig(vllm=VllmConfig(options={"seed": 2, "compilation_config": {"mode": 3}}))
    overrides = "+decoding.vllm.options.seed=2", "+decoding.vllm.options.compilation_config.mode=3"
    given = completed(sweep, *overrides, decoding=own).decoding
    assert given.engine == "vllm" and given.vllm.python == str(started / "gone" / "bin" / "python")
    assert given.vllm.options == {"seed": 2, "compilation_config": {"level": 0, "mode": 3}}
    own = DecodingConfig(vllm=VllmConfig(options={"seed": 2}))
    assert completed(sweep, "decoding.vllm.options={seed:2}", decoding=own).decoding.vllm.options == {"seed": 2}
    written["decoding"]["vllm"]["python"] = "python3.11"
    write_yaml(path, written)
    assert completed(sweep).decoding.vllm.python == "python3.11", "looked up in PATH"
