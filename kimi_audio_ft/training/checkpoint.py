"""Lightning checkpoints without pickle: tensors in safetensors, the rest in JSON, one folder each.

The adapter's own tensors stand in ``adapter_model.safetensors`` under PEFT's names, so an interrupted training can be
decoded by plain PEFT; optimizer, schedule, loops and callbacks are what a resumed training needs besides.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import CheckpointIO
from safetensors.torch import load_file, save_file

from kimi_audio_ft.lora.adapter import WEIGHTS
from kimi_audio_ft.store import raise_if_full

log = logging.getLogger(__name__)

_STATE, _TENSORS = "state.json", "state.safetensors"
# LightningModule attribute and PEFT's adapter name, which PEFT leaves out of its files.
_PREFIX, _ADAPTER = "model.", ".default."
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


class KeepCheckpoints(pl.Callback):
    """Saves every ``every`` optimizer steps and keeps the newest; must be the last callback, which has all of a step.

    Lightning's ModelCheckpoint would save before the recorder's validation, which a resumed run then never had.
    """

    def __init__(self, folder: Path, every: int, keep: int) -> None:
        self.folder, self.every, self.keep = folder, every, keep

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step % self.every:
            return
        trainer.save_checkpoint(self.folder / f"step={step:08d}")  # waits until all ranks are there
        if trainer.is_global_zero:
            for old in _checkpoints(self.folder)[: -self.keep]:
                shutil.rmtree(old, ignore_errors=True)


def latest_checkpoint(work: Path) -> str | None:
    """The checkpoint of the most steps, or None."""
    found = _checkpoints(work)
    if not found:
        return None
    log.info("going on from %s", found[-1])
    return str(found[-1])


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step=*"))


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
