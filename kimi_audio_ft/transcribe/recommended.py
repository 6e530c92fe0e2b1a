"""``sweep=FOLDER``: the adapter of its recommended trial, with the model, prompt and decoding of that trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from kimi_audio_ft import sweep_folder
from kimi_audio_ft.config.command_line import option_of
from kimi_audio_ft.config.manifests import manifest_paths
from kimi_audio_ft.config.serve import ServeConfig
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.config.transcribe import TranscribeConfig
from kimi_audio_ft.manifest.prompts import prompt_in
from kimi_audio_ft.paths import expanded
from kimi_audio_ft.sweep.plan import started_in, written_config

_Config = TypeVar("_Config", TranscribeConfig, ServeConfig)


def with_recommended(config: TranscribeConfig, overrides: Sequence[str]) -> TranscribeConfig:
    """The options completed by the recommended trial of the sweep that they name, and without that sweep.

    Args:
        overrides: of the command line (``model=NAME``, ``decoding.repeats=4``): what these give stays.

    Raises:
        DataError: the folder has no trials.json, or it names no trial.
    """
    if config.sweep is None:
        return config
    adapter, trial = recommended_trial(config.sweep)
    found = replace(completed(config, trial, overrides), sweep=None, adapter=adapter)
    given = set(map(option_of, overrides))
    return replace(found, prompt=_completed(config.prompt, vars(trial.prompt), "prompt", given - {"prompt"}))


def recommended_trial(sweep: str) -> tuple[str | None, TrainConfig]:
    """A finished sweep, as the option ``adapter`` takes it (None: it recommends the base), and its trial's config.

    DataError: the folder has no trials.json, or it names no trial.
    """
    signature, folder = sweep_folder.recommended_trial(expanded(sweep))
    trial, place = _with_whole_paths(folder), started_in(folder)
    if signature is None and trial.data.prompt is None:  # an adapter's record names its prompt; the base has no record
        manifests = [str(place / expanded(path)) for path in manifest_paths(trial.data.eval_manifest)]
        trial = replace(trial, data=replace(trial.data, prompt=prompt_in(manifests)))
    return sweep if signature else None, trial


def _with_whole_paths(folder: Path) -> TrainConfig:
    """The config of a trial, as it holds everywhere: relative paths are from where the sweep was started."""
    trial, place = written_config(folder), started_in(folder)

    def whole(path: str) -> str:
        found = place / expanded(path)
        return str(found) if path != "tiny" and found.is_dir() else path  # else the embedded one, or a hub id

    model, own = trial.model, trial.model.speech_tokenizer
    model = replace(model, path=whole(model.path), speech_tokenizer=None if own is None else whole(own))
    words = trial.prompt.hotwords
    prompt = replace(trial.prompt, hotwords=None if words is None else str(place / expanded(words)))
    python = trial.decoding.vllm.python
    if python is not None and "/" in python:  # else looked up in PATH
        vllm = replace(trial.decoding.vllm, python=str(place / expanded(python)))
        trial = replace(trial, decoding=replace(trial.decoding, vllm=vllm))
    return replace(trial, model=model, prompt=prompt)


def completed(config: _Config, trial: TrainConfig, overrides: Sequence[str]) -> _Config:
    """The options with the model, prompt, decoding and seed of a trial, but for what ``overrides`` give."""
    given = set(map(option_of, overrides))
    data = {"features": trial.data.features, "prompt": trial.data.prompt}
    if "prompt" in given:  # the group, which sets data.prompt
        del data["prompt"]
    return replace(
        config,
        data=_completed(config.data, data, "data", given),
        model=_completed(config.model, vars(trial.model), "model", given),
        decoding=_completed(config.decoding, vars(trial.decoding), "decoding", given),
        seed=config.seed if "seed" in given else trial.seed,
    )


def _completed(own: Any, of_trial: Mapping[str, Any], group: str, given: set[str]) -> Any:
    """A group of options with the trial's values, but for those that the command line gives."""
    if group in given:
        return own
    names = {field.name for field in fields(own)} & of_trial.keys()
    return replace(own, **{n: _value(getattr(own, n), of_trial[n], f"{group}.{n}", given) for n in names})


def _value(own: Any, of_trial: Any, option: str, given: set[str]) -> Any:
    """The trial's value of an option, but for what the command line gives of it: all, or something within."""
    if option in given:
        return own
    if not any(name.startswith(f"{option}.") for name in given):
        return of_trial
    if isinstance(own, Mapping):  # of the command line alone, since such options are empty by default
        return OmegaConf.to_container(OmegaConf.merge(of_trial, own))
    return _completed(own, vars(of_trial), option, given)
