"""Lightning checkpoints without pickle: a folder with tensors in safetensors and the rest in JSON.

The adapter is in ``adapter_model.safetensors`` under PEFT's names, so that plain PEFT can load an interrupted training;
the other files hold the state of the optimizer, schedule, loops and callbacks.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.plugins.io import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from kimi_audio_ft.files import raise_if_full
from kimi_audio_ft.lora.adapter import CONFIG, ONE, WEIGHTS
from kimi_audio_ft.training.adapters import rename
from kimi_audio_ft.training.ending import Leave
from kimi_audio_ft.training.module import AdapterTraining

log = logging.getLogger(__name__)

_STATE, _TENSORS = "state.json", "state.safetensors"
# Key of the reference to a tensor of the second file in the first.
_TENSOR = "__tensor__"
# LightningModule attribute and PEFT's adapter name, which PEFT leaves out of its files.
_PREFIX, _ADAPTER = "model.", f".{ONE}."
# Lightning's key of the state of ``callbacks.CurveRecorder``.
_CURVES = "CurveRecorder"
# DoRA's vector is a module in memory and a bare tensor in PEFT's files.
_DORA = ".lora_magnitude_vector"


class PackCheckpointIO(CheckpointIO):
    """Writes each adapter's part of a checkpoint into its own work folder, as if it were trained alone.

    A later training, alone or in another pack, can resume from it. Only the name of a path given here matters.

    members: work folder and content of PEFT's ``adapter_config.json`` by adapter name.
    """

    def __init__(self, members: Mapping[str, tuple[Path, str]]) -> None:
        self.members = members

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the checkpoints of all members with a curve, i.e. that have not failed."""
        for name in checkpoint["callbacks"][_CURVES]:
            work, config = self.members[name]
            write_checkpoint(_part(checkpoint, name), work / Path(path).name, config)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read all members' checkpoints of this name; they differ only in the adapters."""
        return _joined({name: read_checkpoint(work / Path(path).name) for name, (work, _) in self.members.items()})

    def remove_checkpoint(self, path: Any) -> None:
        """No-op: ``KeepCheckpoints`` deletes old ones."""


def write_checkpoint(checkpoint: Mapping[str, Any], folder: Path, config: str) -> None:
    """Write one adapter's checkpoint, whole or not at all. config: content of ``adapter_config.json``."""
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    tensors: dict[str, Tensor] = {}

    def referred(value: Any) -> dict[str, str]:
        assert isinstance(value, Tensor), f"a checkpoint holds a {type(value).__name__}, which JSON does not know"
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {_TENSOR: name}

    rest = {key: value for key, value in checkpoint.items() if key != "state_dict"}
    adapter = {_peft_name(key): value.cpu().contiguous() for key, value in checkpoint["state_dict"].items()}
    try:
        draft.mkdir(parents=True)
        save_file(adapter, draft / WEIGHTS, metadata={"format": "pt"})
        (draft / CONFIG).write_text(config, encoding="utf-8")
        (draft / _STATE).write_text(json.dumps(rest, default=referred), encoding="utf-8")
        save_file(tensors, draft / _TENSORS)
        shutil.rmtree(folder, ignore_errors=True)
        draft.replace(folder)
    except Exception as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise_if_full(error, folder)
        raise


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """A checkpoint that ``write_checkpoint`` wrote; tuples come back as lists."""
    tensors = load_file(folder / _TENSORS)

    def resolved(value: dict[str, Any]) -> Any:
        return tensors[value[_TENSOR]] if _TENSOR in value else value

    checkpoint = json.loads((folder / _STATE).read_text(encoding="utf-8"), object_hook=resolved)
    checkpoint["state_dict"] = {_module_name(key): value for key, value in load_file(folder / WEIGHTS).items()}
    return checkpoint


def _part(checkpoint: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One member's part, equal to its checkpoint when trained alone."""
    callbacks = checkpoint["callbacks"]
    return {
        **checkpoint,
        "state_dict": rename(checkpoint["state_dict"], name, ONE),
        "optimizer_states": [rename(state, name, ONE) for state in checkpoint["optimizer_states"]],
        "callbacks": {**callbacks, _CURVES: callbacks[_CURVES][name]},
    }


def _joined(parts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Checkpoint of all members from their parts."""
    joined = dict(next(iter(parts.values())))
    states: list[dict[str, Any]] = [{} for _ in joined["optimizer_states"]]
    joined["state_dict"], joined["optimizer_states"] = {}, states
    joined["callbacks"] = {**joined["callbacks"], _CURVES: {n: part["callbacks"][_CURVES] for n, part in parts.items()}}
    for name, part in parts.items():
        joined["state_dict"] |= rename(part["state_dict"], ONE, name)
        for state, own in zip(states, part["optimizer_states"], strict=True):
            state |= rename(own, ONE, name)
    return joined


class KeepCheckpoints(pl.Callback):
    """Saves every ``every`` optimizer steps and keeps the newest; must be the last callback.

    Ends the training early, with a checkpoint: on request, or at the step ``until``.

    validated: called with the step ``until``; returns the adapters' validation losses.
    stopped: the step of the request. paused: the step ``until`` and the validation losses there.
    """

    def __init__(
        self,
        works: Sequence[Path],
        every: int,
        keep: int,
        until: int | None = None,
        validated: Callable[[int], dict[str, float]] = lambda step: {},
    ) -> None:
        self.works, self.every, self.keep, self.until, self.validated = works, every, keep, until, validated
        self.stopped: int | None = None
        self.paused: tuple[int, dict[str, float]] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == self.until:  # an earlier call already reached it
            self._pause(trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, AdapterTraining)
        step = trainer.global_step
        unfinished = step != pl_module.num_steps
        pauses, stops = unfinished and step == self.until, unfinished and pl_module.stop_asked
        if pauses or stops or step % self.every == 0:
            self._save(trainer, step)
        if pauses:
            self._pause(step)
        if stops:
            self.stopped = step
            raise Leave

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Correct Lightning's epoch counts: during epoch n, n are processed and n + 1 started.

        After resuming from the last step of an epoch, Lightning does not count the next one as started. A checkpoint
        saved in that epoch would then train an epoch too many, or restart it.
        """
        for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
            counts["ready"] = counts["started"] = counts["processed"] + 1
            counts["completed"] = counts["processed"]

    def _save(self, trainer: pl.Trainer, step: int) -> None:
        trainer.save_checkpoint(_name(step))  # called by every rank, and synchronizes them
        if trainer.is_global_zero:
            for work in self.works:
                # Only after all members have the new one; later ones may come from another, longer pack.
                older = [folder for folder in _checkpoints(work) if _step(folder) <= step]
                for old in older[: -self.keep]:
                    shutil.rmtree(old, ignore_errors=True)

    def _pause(self, step: int) -> None:
        self.paused = (step, self.validated(step))
        raise Leave


def resume_step(works: Sequence[Path], until: int | None = None) -> int:
    """Latest step, at most ``until``, with a checkpoint in every work folder; 0 if there is none."""
    common = set.intersection(*({_step(folder) for folder in _checkpoints(work)} for work in works))
    for step in sorted(common, reverse=True):
        if (until is None or step <= until) and all(_readable(work / _name(step)) for work in works):
            return step
    return 0


def group_by_resume(works: Mapping[str, Path]) -> list[list[str]]:
    """Groups that can resume at a common step; no member loses more than its newest checkpoint."""
    groups: list[list[str]] = []
    for name in sorted(works, key=lambda name: resume_step([works[name]])):
        for group in groups:
            joined = [*group, name]
            step = resume_step([works[member] for member in joined])
            if all(step >= _least(works[member]) for member in joined):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def _least(work: Path) -> int:
    """Step of the second newest checkpoint, or of the only one."""
    newest = resume_step([work])
    return resume_step([work], newest - 1) or newest


def checkpoint_of(works: Sequence[Path], until: int | None = None) -> str | None:
    """Name of the checkpoint that all members resume from, or None."""
    step = resume_step(works, until)
    if not step:
        return None
    for work in works:
        log.info("resuming from %s", work / _name(step))
    return _name(step)


def _name(step: int) -> str:
    return f"step={step:08d}"


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step="))


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step=" + "[0-9]" * 8))


def _readable(folder: Path) -> bool:
    """Whether a checkpoint is complete; writes are atomic, so an incomplete one was damaged later."""
    try:
        json.loads((folder / _STATE).read_text(encoding="utf-8"))
        for name in (_TENSORS, WEIGHTS):
            with safe_open(folder / name, framework="pt") as file:
                file.keys()
    except (OSError, ValueError, SafetensorError) as error:
        log.warning("%s: ignored, cannot be read (%s)", folder, " ".join(str(error).split()))
        return False
    return True


def _peft_name(key: str) -> str:
    name = key.removeprefix(_PREFIX).replace(_ADAPTER, ".")
    return name.removesuffix(".weight") if name.endswith(_DORA + ".weight") else name


def _module_name(key: str) -> str:
    key = f"{key}.weight" if key.endswith(_DORA) else key
    stem, _, last = key.rpartition(".")
    return f"{_PREFIX}{stem}{_ADAPTER}{last}"
