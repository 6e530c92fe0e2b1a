"""Commands to copy: evaluate, use and merge a trial's adapter, and sweep further values around it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kimi_audio_ft import store
from kimi_audio_ft.config.command_line import assigned, module_command, option_of
from kimi_audio_ft.config.train import DecodingConfig, ModelConfig, ScoringConfig
from kimi_audio_ft.files import read_yaml
from kimi_audio_ft.paths import project_root
from kimi_audio_ft.store.signature import flatten
from kimi_audio_ft.sweep_folder import hydras_folder
from multirun_analysis.records import RERUN
from multirun_analysis.report.facts import flat_config
from multirun_analysis.sweep import Sweep, Trial
from multirun_analysis.words import show

TRAIN = module_command("train")
_ABOUT = ("seed", "data.prompt", "prompt.hotwords", "prompt.retrieve")
_GROUPS: dict[str, type] = {"model": ModelConfig, "decoding": DecodingConfig, "scoring": ScoringConfig}


def adapter_of(trial: Trial) -> str:
    """The adapter's folder in the store; its signature alone where this store does not have it."""
    signature = str(trial.record.get("signature"))
    folder = store.product_path("adapter", signature)
    return str(folder) if folder.is_dir() else signature


def evaluate_command(trial: Trial) -> str:
    """Decodes and scores as the trial did, with its adapter: the test set, or else what the trial was scored on."""
    manifest = flat_config(trial).get("data.test_manifest") or trial.record.get("eval_manifest")
    given = {"adapter": adapter_of(trial), **({"data.eval_manifest": manifest} if manifest else {})}
    groups = [*_as_in(trial, "model"), *_as_in(trial, "decoding"), *_as_in(trial, "scoring")]
    return _command("evaluate", [*_assigned(given), *groups, *_given(trial, *_ABOUT, "data.audio_root")])


def merge_command(trial: Trial, sweep: Sweep) -> str:
    """Makes one checkpoint of base and adapter."""
    out = f"outputs/merged/{sweep.folder.resolve().name}"
    return _command("merge", [*_assigned({"adapter": adapter_of(trial), "out": out}), *_as_in(trial, "model")])


def transcribe_command(trial: Trial, sweep: Sweep) -> str:
    """Texts of a folder of recordings by the recommended trial, as it decodes."""
    given = {"audio": "my/audio", "out": f"outputs/texts/{sweep.folder.resolve().name}"}
    if is_trained(trial):
        return _command("transcribe", _assigned({"sweep": str(sweep.folder), **given}))
    groups = [*_as_in(trial, "model"), *_as_in(trial, "decoding")]  # ``sweep=`` reads them of trials of ``train`` alone
    return _command(
        "transcribe", [*_assigned({"adapter": adapter_of(trial), **given}), *groups, *_given(trial, *_ABOUT)]
    )


def is_trained(trial: Trial) -> bool:
    """Whether it is a trial of ``train``, not of ``evaluate -m``."""
    return any(key.startswith("lora.") for key in flat_config(trial))


def combine_command(sweep: Sweep, samples: int) -> str:
    """Combinations of the sweep's best trials, and of new samples of the best one."""
    return _command("combine", _assigned({"sweep": str(sweep.folder), "samples": samples}))


def further_command(trial: Trial, changes: Mapping[str, Sequence[Any]], sweep: Sweep) -> str | None:
    """The trial's own command with other values of some options: a sweep where an option has several.

    None where the trial's command was not recorded.
    """
    command = trial.record.get("command")
    if not command:
        return None
    changing = {*changes, "hydra.mode"}
    given = [item for item in shlex.split(str(command))[len(TRAIN) :] if option_of(item) not in changing]
    changed = [f"{key}={','.join(map(show, values))}" for key, values in changes.items()]
    if all(len(values) == 1 for values in changes.values()):
        return shlex.join([*TRAIN, *given, *changed, "hydra.mode=RUN"])
    of_launcher = ("hydra/launcher", "hydra.launcher")
    launcher = [item for item in shlex.split(sweep.command or "") if option_of(item).startswith(of_launcher)]
    folder = assigned("hydra.sweep.dir", str(_free(sweep.folder)))
    return shlex.join([*TRAIN, "-m", *given, *changed, *launcher, folder])


def with_base_command(sweep: Sweep) -> str | None:
    """The sweep's command, which also decodes the base; None where it was not recorded, or is not ``train``'s."""
    words = shlex.split(sweep.command or "")
    if words[: len(TRAIN)] != TRAIN:  # ``evaluate`` has no option for it
        return None
    return shlex.join([*(item for item in words if option_of(item) != "baseline"), "baseline=true"])


def _command(name: str, options: Sequence[str]) -> str:
    return shlex.join([*module_command(name), *options])


def _assigned(given: Mapping[str, Any]) -> list[str]:
    return list(map(assigned, given, given.values()))


def _given(trial: Trial, *options: str) -> list[str]:
    """Overrides of those options that the trial has set."""
    config = flat_config(trial)
    return _assigned({key: value for key in options if (value := config.get(key))})


def _free(folder: Path) -> Path:
    """A new folder beside the sweep's."""
    folder = folder if folder.name not in ("", "..") else folder.resolve()  # "." and "../.." have no name to replace
    tried = (folder.with_name(f"{folder.resolve().name}-next{number}") for number in ("", *range(2, 1000)))
    return next(path for path in tried if not path.exists())


def _as_in(trial: Trial, group: str) -> list[str]:
    """Overrides that give another command the trial's options of a group: its choice, and what differs from that."""
    schema = _GROUPS[group]
    choice = _choices(trial).get(group)
    known = flatten(asdict(schema()))
    file = project_root() / "conf" / group / f"{choice}.yaml"
    chosen = [f"{group}={choice}"] if file.is_file() else []
    if chosen:
        known |= read_yaml(file, RERUN)
    config = {key.partition(".")[2]: value for key, value in flat_config(trial).items() if key.startswith(f"{group}.")}
    if group == "model" and "path" not in config:
        config["path"] = trial.record.get("model") or known["path"]
    added = [f"+{group}.{name}" for name in config if name.startswith("vllm.options.")]  # keys of our users' own
    return [
        *chosen,
        *(assigned(f"{group}.{name}", config[name]) for name in known if config.get(name, known[name]) != known[name]),
        *(assigned(option, config[option.removeprefix(f"+{group}.")]) for option in added),
    ]


def _choices(trial: Trial) -> dict[str, Any]:
    """Choices of the config groups, as Hydra recorded them."""
    path = hydras_folder(trial.folder) / "hydra.yaml"
    recorded: Any = read_yaml(path, RERUN) if path.is_file() else {}
    try:
        return dict(recorded["hydra"]["runtime"]["choices"])
    except (TypeError, KeyError, ValueError):
        return {}
