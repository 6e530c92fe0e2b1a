"""Lightning checkpoints without pickle: tensors in safetensors, the rest in JSON, one folder each.

The adapter's own tensors stand in ``adapter_model.safetensors`` under PEFT's names, so an interrupted training can be
decoded by plain PEFT; optimizer, schedule, loops and callbacks are what a resumed training needs besides.
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
# What Lightning keeps the state of ``curves.CurveRecorder`` under.
_CURVES = "CurveRecorder"
# DoRA's vector is a module in memory and a bare tensor in PEFT's files.
_DORA = ".lora_magnitude_vector"


class AdapterCheckpointIO(CheckpointIO):
    """Writes and reads checkpoint folders, aside and renamed."""

    def __init__(self, config_json: str) -> None:
        self.config_json = config_json  # PEFT's adapter_config.json, the same for every checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint folder; a full disk leaves none."""
        place = Path(path)
        draft = place.with_name(f".{place.name}.draft")
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
            shutil.rmtree(place, ignore_errors=True)
            draft.replace(place)
        except Exception as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise_if_full(error, place)
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


class MembersCheckpointIO(CheckpointIO):
    """Writes each member's part of a checkpoint into its own work folder, just as if it had trained alone.

    So whoever trains it further, alone or with others, finds the same thing there. A path here is a checkpoint's name.
    """

    def __init__(self, members: Mapping[str, tuple[Path, AdapterCheckpointIO]]) -> None:
        self.members = members

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the checkpoint of every member that has a curve: of all that have not failed."""
        for name in checkpoint["callbacks"][_CURVES]:
            work, files = self.members[name]
            files.save_checkpoint(_part(checkpoint, name), work / Path(path).name)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read all members' checkpoints of this name; what is not their own is the same in each."""
        parts = {n: files.load_checkpoint(work / Path(path).name) for n, (work, files) in self.members.items()}
        return _joined(parts)

    def remove_checkpoint(self, path: Any) -> None:
        """Delete it in every work folder."""
        for work, files in self.members.values():
            files.remove_checkpoint(work / Path(path).name)


def _part(checkpoint: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a member that trains alone would have saved."""
    callbacks = checkpoint["callbacks"]
    return {
        **checkpoint,
        "state_dict": rename(checkpoint["state_dict"], name, ONE),
        "optimizer_states": [rename(state, name, ONE) for state in checkpoint["optimizer_states"]],
        "callbacks": {**callbacks, _CURVES: callbacks[_CURVES][name]},
    }


def _joined(parts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The checkpoint of all members from their parts."""
    joined = dict(next(iter(parts.values())))
    states: list[dict[str, Any]] = [{} for _ in joined["optimizer_states"]]
    joined["state_dict"], joined["optimizer_states"] = {}, states
    joined["callbacks"] = {**joined["callbacks"], _CURVES: {n: part["callbacks"][_CURVES] for n, part in parts.items()}}
    for name, part in parts.items():
        joined["state_dict"] |= rename(part["state_dict"], ONE, name)
        for state, own in zip(states, part["optimizer_states"], strict=True):
            state |= rename(own, ONE, name)
    return joined


def resume_step(works: Sequence[Path], until: int | None = None) -> int:
    """The most optimizer steps, at most ``until``, of which every work folder has a checkpoint; 0 for none."""
    common = set.intersection(*({_step(place) for place in _checkpoints(work)} for work in works))
    for step in sorted(common, reverse=True):
        if (until is None or step <= until) and all(_readable(work / _name(step)) for work in works):
            return step
    return 0


def group_by_resume(works: Mapping[str, Path]) -> list[list[str]]:
    """Members by what they can go on from together: none of them goes back behind its last checkpoint but one."""
    groups: list[list[str]] = []
    for name in sorted(works, key=lambda name: resume_step([works[name]])):
        for group in groups:
            together = [*group, name]
            step = resume_step([works[member] for member in together])
            if all(step >= _least(works[member]) for member in together):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def _least(work: Path) -> int:
    """The second newest checkpoint's step; the newest one's where it is the only one."""
    newest = resume_step([work])
    return resume_step([work], newest - 1) or newest


def checkpoint_of(works: Sequence[Path], until: int | None = None) -> str | None:
    """Name of the checkpoint that all members go on from, or None."""
    step = resume_step(works, until)
    if not step:
        return None
    for work in works:
        log.info("going on from %s", work / _name(step))
    return _name(step)


def _name(step: int) -> str:
    return f"step={step:08d}"


def _step(place: Path) -> int:
    return int(place.name.removeprefix("step="))


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step=" + "[0-9]" * 8))


def _readable(place: Path) -> bool:
    """Whether a checkpoint is whole. Ours are renamed into place, so one that is not was damaged by something else."""
    try:
        json.loads((place / _STATE).read_text(encoding="utf-8"))
        for name in (_TENSORS, WEIGHTS):
            with safe_open(place / name, framework="pt") as file:
                file.keys()
    except (OSError, ValueError, SafetensorError) as error:
        log.warning("%s: left aside, for it cannot be read (%s)", place, " ".join(str(error).split()))
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
    """A JSON value in which tensors are references, and tuples and dicts with other than string keys are marked."""
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


class KeepCheckpoints(pl.Callback):
    """Saves every ``every`` optimizer steps and keeps the newest; must come after all that has something to save.

    Lightning's ModelCheckpoint would save before the recorder's validation, which a resumed run then never had.
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
        """Put Lightning's counts of epochs right: inside epoch n, n were processed and n + 1 begun.

        Resumed from the last step of an epoch, Lightning does not count the next epoch as begun. Resumed from a
        checkpoint of that epoch, it would then train an epoch too much, or begin this one again.
        """
        for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
            counts["ready"] = counts["started"] = counts["processed"] + 1
            counts["completed"] = counts["processed"]

    def save(self, trainer: pl.Trainer) -> None:
        """Save now, unless this step has been saved; every rank must call."""
        step = trainer.global_step
        if step == self._saved:
            return
        trainer.save_checkpoint(_name(step))  # waits until all ranks are there
        self._saved = step
        if trainer.is_global_zero:
            for work in self.works:
                # Only now that all members have the new one; later ones may be left by another, longer pack.
                older = [place for place in _checkpoints(work) if _step(place) <= step]
                for old in older[: -self.keep]:
                    shutil.rmtree(old, ignore_errors=True)
