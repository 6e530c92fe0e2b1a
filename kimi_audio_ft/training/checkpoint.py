"""Lightning checkpoints without pickle: a folder with tensors in safetensors and the rest in JSON.

The adapter is in ``adapter_model.safetensors`` under PEFT's names, so that plain PEFT can load an interrupted training;
the other files hold the state of the optimizer, schedule, loops and callbacks.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from kimi_audio_ft.files import raise_if_full
from kimi_audio_ft.lora.adapter import ONE, WEIGHTS
from kimi_audio_ft.training.adapters import rename

log = logging.getLogger(__name__)

_STATE, _TENSORS = "state.json", "state.safetensors"
# LightningModule attribute and PEFT's adapter name, which PEFT leaves out of its files.
_PREFIX, _ADAPTER = "model.", f".{ONE}."
# Lightning's key of the state of ``callbacks.CurveRecorder``.
_CURVES = "CurveRecorder"
# DoRA's vector is a module in memory and a bare tensor in PEFT's files.
_DORA = ".lora_magnitude_vector"


class AdapterCheckpointIO(CheckpointIO):
    """Reads and writes checkpoint folders; writes are atomic."""

    def __init__(self, config_json: str) -> None:
        self.config_json = config_json  # PEFT's adapter_config.json, the same for every checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint folder; a full disk leaves none."""
        folder = Path(path)
        draft = folder.with_name(f".{folder.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        tensors: dict[str, torch.Tensor] = {}
        rest = {key: value for key, value in checkpoint.items() if key != "state_dict"}
        adapter = {_peft_name(key): value.cpu().contiguous() for key, value in checkpoint["state_dict"].items()}
        try:
            draft.mkdir(parents=True)
            save_file(adapter, draft / WEIGHTS, metadata={"format": "pt"})
            (draft / "adapter_config.json").write_text(self.config_json, encoding="utf-8")
            (draft / _STATE).write_text(json.dumps(_to_json(rest, tensors)), encoding="utf-8")
            save_file(tensors, draft / _TENSORS)
            shutil.rmtree(folder, ignore_errors=True)
            draft.replace(folder)
        except Exception as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise_if_full(error, folder)
            raise

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint folder."""
        folder = Path(path)
        tensors = load_file(folder / _TENSORS)
        checkpoint = _from_json(json.loads((folder / _STATE).read_text(encoding="utf-8")), tensors)
        adapter = load_file(folder / WEIGHTS)
        checkpoint["state_dict"] = {_module_name(key): value for key, value in adapter.items()}
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint folder."""
        shutil.rmtree(path, ignore_errors=True)


class PackCheckpointIO(CheckpointIO):
    """Writes each adapter's part of a checkpoint into its own work folder, as if it were trained alone.

    A later training, alone or in another pack, can resume from it. Only the name of a path given here matters.
    """

    def __init__(self, members: Mapping[str, tuple[Path, AdapterCheckpointIO]]) -> None:
        self.members = members

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the checkpoints of all members with a curve, i.e. that have not failed."""
        for name in checkpoint["callbacks"][_CURVES]:
            work, files = self.members[name]
            files.save_checkpoint(_part(checkpoint, name), work / Path(path).name)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read all members' checkpoints of this name; they differ only in the adapters."""
        parts = {n: files.load_checkpoint(work / Path(path).name) for n, (work, files) in self.members.items()}
        return _joined(parts)

    def remove_checkpoint(self, path: Any) -> None:
        """Delete this checkpoint in every work folder."""
        for work, files in self.members.values():
            files.remove_checkpoint(work / Path(path).name)


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
    """Saves every ``every`` optimizer steps and keeps the newest; must follow all stateful callbacks.

    Lightning's ModelCheckpoint would save before the recorder's validation, which a resumed run would then miss.
    """

    def __init__(self, works: Sequence[Path], every: int, keep: int) -> None:
        self.works, self.every, self.keep = works, every, keep
        self._saved = -1

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every == 0:
            self.save(trainer)

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

    def save(self, trainer: pl.Trainer) -> None:
        """Save now, unless this step is saved already; every rank must call this."""
        step = trainer.global_step
        if step == self._saved:
            return
        trainer.save_checkpoint(_name(step))  # synchronizes the ranks
        self._saved = step
        if trainer.is_global_zero:
            for work in self.works:
                # Only after all members have the new one; later ones may come from another, longer pack.
                older = [folder for folder in _checkpoints(work) if _step(folder) <= step]
                for old in older[: -self.keep]:
                    shutil.rmtree(old, ignore_errors=True)


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


def _to_json(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON value with references to tensors, and markers for tuples and for dicts with non-string keys."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"__tensor__": name}
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _to_json(item, tensors) for key, item in value.items()}
        return {"__items__": [[_to_json(k, tensors), _to_json(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"__tuple__": [_to_json(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_to_json(item, tensors) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise AssertionError(f"a checkpoint holds a {type(value).__name__}, which JSON does not know")


def _from_json(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_from_json(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "__tensor__" in value:
        return tensors[value["__tensor__"]]
    if "__tuple__" in value:
        return tuple(_from_json(item, tensors) for item in value["__tuple__"])
    if "__items__" in value:
        return {_from_json(k, tensors): _from_json(v, tensors) for k, v in value["__items__"]}
    return {key: _from_json(item, tensors) for key, item in value.items()}
