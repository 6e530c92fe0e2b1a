"""Reading and writing the published checkpoint layout: ``config.json``, safetensors shards and their index."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.model.config import KimiAudioConfig
from kimi_audio_ft.model.decoder import KimiAudioForCausalLM

INDEX_NAME = "model.safetensors.index.json"
# The published shards hold one such bf16 table per layer; rounded rotary frequencies must never be used.
STRAY_SUFFIX = "rotary_emb.inv_freq"
BRANCH_PREFIXES = ("model.mimo_layers.", "model.mimo_norm.", "mimo_output.")


def read_config(folder: Path) -> KimiAudioConfig:
    """``config.json`` of a checkpoint folder."""
    path = folder / "config.json"
    return KimiAudioConfig(**read_json(path, "a Kimi-Audio checkpoint folder; set model.path to one"))


def read_json(path: Path, expected: str) -> dict:
    """A JSON object from a file, or a DataError that says what was expected there."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(path, "no such file", f"Expected {expected}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(path, f"is not JSON ({error})", f"Expected {expected}") from None
    if not isinstance(value, dict):
        raise DataError(path, "is not a JSON object", f"Expected {expected}")
    return value


def shard_of_key(folder: Path) -> dict[str, Path]:
    """File that holds each tensor, by the index whatever the shards are called, or by one ``model.safetensors``."""
    index, single = folder / INDEX_NAME, folder / "model.safetensors"
    if index.is_file():
        weight_map = read_json(index, "a safetensors index").get("weight_map")
        if not isinstance(weight_map, dict):
            raise DataError(index, "has no 'weight_map'", "Download the checkpoint's index again")
        return {key: folder / name for key, name in weight_map.items()}
    if single.is_file():
        with _open(single) as tensors:
            return dict.fromkeys(tensors.keys(), single)
    raise DataError(folder, f"holds neither {INDEX_NAME} nor model.safetensors", "Set model.path to a checkpoint")


def read_model(
    folder: Path, dtype: torch.dtype, audio_branch: bool = True, device: str | torch.device = "cpu"
) -> KimiAudioForCausalLM:
    """Build the model on the meta device and fill it tensor by tensor: one copy, straight onto ``device``."""
    config = read_config(folder)
    config.dtype = dtype
    config.name_or_path = str(folder)  # PEFT writes it into adapter_config.json
    if not audio_branch:
        config.kimia_mimo_layers = 0
    with torch.device("meta"):
        model = KimiAudioForCausalLM(config)
    if not audio_branch:
        del model.mimo_output, model.model.mimo_norm
    state = read_tensors(folder, set(model.state_dict()), dtype, device, audio_branch)
    expected = {key: value.shape for key, value in model.state_dict().items()}
    wrong = [
        f"{key}: {tuple(state[key].shape)}, not {tuple(s)}" for key, s in expected.items() if state[key].shape != s
    ]
    if wrong:
        raise DataError(folder, f"tensors do not fit config.json: {_listed(wrong)}", "config.json must be the shards'")
    model.load_state_dict(state, assign=True)
    # The rotary table is not part of a checkpoint; on the meta device it is empty.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(device)
    return model.requires_grad_(False).eval()


def read_tensors(
    folder: Path, wanted: set[str], dtype: torch.dtype, device: str | torch.device, audio_branch: bool = True
) -> dict[str, Tensor]:
    """Exactly the wanted tensors; anything else in the checkpoint but the known strays is an error."""
    shards = {key: path for key, path in shard_of_key(folder).items() if not key.endswith(STRAY_SUFFIX)}
    if not audio_branch:
        shards = {key: path for key, path in shards.items() if not key.startswith(BRANCH_PREFIXES)}
    missing, unknown = sorted(wanted - set(shards)), sorted(set(shards) - wanted)
    if missing or unknown:
        raise DataError(
            folder,
            f"checkpoint does not match config.json: missing {_listed(missing)}; unknown {_listed(unknown)}",
            "Download the folder again, or check num_hidden_layers and kimia_mimo_layers",
        )
    state: dict[str, Tensor] = {}
    for path in sorted(set(shards.values())):
        with _open(path) as tensors:
            available = set(tensors.keys())
            for key in (key for key, shard in shards.items() if shard == path):
                if key not in available:
                    raise DataError(path, f"does not hold {key}, which the index places there", "Download it again")
                state[key] = tensors.get_tensor(key).to(device=device, dtype=dtype)
    return state


def write_model(model: KimiAudioForCausalLM, folder: Path, dtype: torch.dtype, shard_bytes: int = 5 * 2**30) -> None:
    """Write ``config.json``, shards and index in the published layout."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        key: value.detach().to(dtype).contiguous()
        for key, value in model.state_dict().items()
        if not key.startswith("whisper_model.")
    }
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, tensor in state.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][key] = tensor
        size += tensor.nbytes
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number}-of-{len(shards)}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, name)
    total = sum(tensor.nbytes for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(published_config(model.model.config, dtype), indent=2) + "\n")


def published_config(config: KimiAudioConfig, dtype: torch.dtype) -> dict:
    """The config in the published file's own words (``rope_theta``, ``torch_dtype``)."""
    fields = {k: v for k, v in config.to_diff_dict().items() if k not in ("rope_parameters", "layer_types", "dtype")}
    fields |= {"rope_theta": config.rope_theta, "torch_dtype": str(dtype).removeprefix("torch.")}
    fields |= {"architectures": ["MoonshotKimiaForCausalLM"], "model_type": config.model_type}
    return fields


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise DataError(path, "no such file", "The index names it: download the missing shard") from None
    except (SafetensorError, OSError) as error:
        raise DataError(path, f"is not a readable safetensors file ({error})", "Download it again") from None


def _listed(names: list[str], most: int = 12) -> str:
    if not names:
        return "none"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
