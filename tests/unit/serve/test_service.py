"""What the server's models are, and what of an upload is refused."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import save_file

from kimi_audio_ft.config.serve import ServeConfig
from kimi_audio_ft.config.train import DEFAULT_PROMPT, DecodingConfig, TrainConfig, VllmConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.files import write_json
from kimi_audio_ft.manifest import audio
from kimi_audio_ft.manifest.audio import Recording
from kimi_audio_ft.serve.batch_queue import RequestRefused
from kimi_audio_ft.serve.service import RequestOptions, Service
from tests.silero import hear_no_speech


def recording(seconds: float) -> io.BytesIO:
    """A wav of noise at 8 kHz."""
    file = io.BytesIO()
    noise = 0.1 * np.random.default_rng(0).standard_normal(round(8000 * seconds))
    soundfile.write(file, noise, 8000, format="WAV")
    file.seek(0)
    return file


@pytest.fixture(scope="module")
def server() -> Service:
    return Service.of(ServeConfig(cut="windows", max_minutes=0.1, max_total_minutes=0.15))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep that recommends the base alone, with a prompt and decoding of its own."""
    trial = TrainConfig(seed=5)
    trial.model.dtype, trial.data.prompt, trial.data.features = "float32", "听写", "none"
    trial.decoding.text_temperature, trial.decoding.repeats, trial.decoding.batch_size = 0.2, 4, 3
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    (tmp_path / "0" / ".hydra" / "config.yaml").write_text(yaml.safe_dump(asdict(trial)), encoding="utf-8")
    entry = {"signature": "base", "kind": "baseline", "recommended": True, "paths": {"folder": "0"}}
    write_json(tmp_path / "trials.json", {"trials": [], "baselines": [entry]})
    return tmp_path


def test_an_adapter_of_whisper_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    tensors = {"base_model.model.whisper_model.encoder.q_proj.lora_A.weight": torch.zeros(1)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=r"changes the Whisper encoder.*data\.features=online"):
        Service.of(ServeConfig(adapters={"meetings": str(tmp_path)}, cut="windows"))


def test_prompt_and_decoding_of_a_sweep_are_the_recommended_models_alone(sweep: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "adapter_config.json").write_text("{}", encoding="utf-8")
    config = ServeConfig(adapters={"meetings": str(other)}, sweep=str(sweep), cut="windows")
    found = Service.of(config, ["sweep=x"])
    assert list(found.models) == ["base", "meetings", "recommended"]
    best, *rest = (found.models[name] for name in ("recommended", "base", "meetings"))
    assert (best.prompt, best.seed, best.adapter) == ("听写", 5, None)
    assert len(found.requests(best, None)) == 4 and found.requests(best, None)[0].setting.text_temperature == 0.2
    for model in rest:
        assert (model.prompt, model.seed) == (DEFAULT_PROMPT, 1)
        assert [one.setting.text_temperature for one in found.requests(model, None)] == [0.0]
    shared = found.config
    assert (shared.model.dtype, found.base.features, shared.decoding.batch_size) == ("float32", "none", 3)


def test_hot_words_of_the_recommended_trial_are_those_of_requests_without_any(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terms, path = tmp_path / "terms.txt", tmp_path / "0" / ".hydra" / "config.yaml"
    terms.write_text("陈凯\nLP\n", encoding="utf-8")

    def prompts(words: Sequence[str] = (), **options: Any) -> dict[str, str]:
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
        written["prompt"] |= {"hotwords": str(terms), **options}
        path.write_text(yaml.safe_dump(written), encoding="utf-8")
        found, told = Service.of(ServeConfig(sweep=str(sweep), cut="windows"), ["sweep=x"]), dict[str, str]()
        for name, model in found.models.items():
            with ExitStack() as held:
                _, (job,) = found.jobs(recording(1), "a.wav", model, RequestOptions(words=words), held)
            told[name] = job.prompt
        return told

    assert prompts() == {"base": DEFAULT_PROMPT, "recommended": "听写\n热词：陈凯、LP"}
    assert "recommended: 2 hot words, unless a request gives others" in capsys.readouterr().out
    assert prompts(["江来"])["recommended"] == "听写\n热词：江来"
    assert prompts(retrieve=1)["recommended"] == "听写"
    assert "prompt.retrieve is not supported here; only hot words of a request are used" in capsys.readouterr().out
    terms.unlink()
    with pytest.raises(ConfigError, match=r"prompt\.hotwords=.*cannot be read"):
        prompts(retrieve=None)


def test_a_sweep_that_vllm_decoded_is_served_natively(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "0" / ".hydra" / "config.yaml"
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    written["decoding"] |= {"engine": "vllm", "vllm": {"python": "gone/bin/python", "options": {"seed": 1}}}
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    found = Service.of(ServeConfig(sweep=str(sweep), cut="windows"), ["sweep=x"])
    setting = found.requests(found.models["recommended"], None)[0].setting
    assert (setting.engine, setting.text_temperature) == ("native", 0.2)
    assert "decoded by vllm; the server decodes with engine=native" in capsys.readouterr().out


def test_the_vllm_of_a_sweep_is_not_the_servers(sweep: Path, tmp_path: Path) -> None:
    """The recommended trial was decoded natively, beside others that vLLM decoded; the next that is missing is told."""
    path = tmp_path / "0" / ".hydra" / "config.yaml"
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    written["decoding"]["vllm"]["python"] = "gone/bin/python"
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    decoding = DecodingConfig(engine="vllm", vllm=VllmConfig(url="http://127.0.0.1:9"))
    given = ["sweep=x", "decoding.engine=vllm", "decoding.vllm.url=http://127.0.0.1:9"]
    with pytest.raises(ConfigError, match=r"^model\.path=.*is no front end of a Qwen2"):
        Service.of(ServeConfig(sweep=str(sweep), cut="windows", decoding=decoding), given)


def test_no_more_audio_than_may_wait(server: Service) -> None:
    """What has been answered makes room."""
    base = server.models["base"]
    with ExitStack() as first:
        server.jobs(recording(5), "a.wav", base, RequestOptions(), first)
        with (
            ExitStack() as second,
            pytest.raises(RequestRefused, match=r"0\.0833 minutes .*max_total_minutes.*try again") as no,
        ):
            server.jobs(recording(5), "b.wav", base, RequestOptions(), second)
        assert (no.value.status, no.value.code) == (429, "busy")
    with ExitStack() as later:
        heard, jobs = server.jobs(recording(5), "b.wav", base, RequestOptions(words=["陈凯", "LP"]), later)
    assert heard.seconds == 5 and [job.prompt for job in jobs] == [f"{base.prompt}\n热词：陈凯、LP"]


def test_what_cannot_be_read_is_told_with_its_remedy_and_without_its_place(server: Service) -> None:
    base = server.models["base"]
    cut = io.BytesIO(recording(2).getvalue()[:-4000])
    for upload, said in (
        (io.BytesIO(b"no audio"), r"^a\.wav: not a readable recording.*ffmpeg -i IN"),
        (cut, r"^a\.wav: .*Copy or export it again"),
        (recording(7), r"^a\.wav: lasts longer than the 0\.1 minutes that the server takes \(max_minutes\)"),
    ):
        with ExitStack() as held, pytest.raises(RequestRefused, match=said) as refused:
            server.jobs(upload, "a.wav", base, RequestOptions(), held)
        assert "upload-" not in str(refused.value)


def test_an_upload_is_opened_once(server: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ffmpeg decodes it, opening decodes the whole of it."""
    hear_no_speech(monkeypatch, tmp_path)
    at_pauses = Service.of(ServeConfig(max_seconds=5.0))
    opened: list[str] = []

    def counted(path: str | Path, longest: float | None = None) -> Recording:
        opened.append(str(path))
        return really(path, longest)

    really = audio._opened
    monkeypatch.setattr(audio, "_opened", counted)
    for each in (server, at_pauses):
        with ExitStack() as held:
            each.jobs(recording(5.5), "a.wav", each.models["base"], RequestOptions(), held)
        assert len(opened) == 1
        opened.clear()
