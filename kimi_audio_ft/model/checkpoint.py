"""Reading and writing the published checkpoint layout: ``config.json``, safetensors shards and their index."""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import save_file

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.files import INDEX_NAME, read_json_object, save_json
from kimi_audio_ft.model.config import KimiAudioConfig
from kimi_audio_ft.model.decoder import KimiAudioForCausalLM
from kimi_audio_ft.model.shards import plan_shards, shard_index
from kimi_audio_ft.model.weight_files import check_parameter_count, load_tensors

# The published shards hold one such bf16 table per layer; rounded rotary frequencies must never be used.
STRAY_SUFFIX = "rotary_emb.inv_freq"
BRANCH_PREFIXES = ("model.mimo_layers.", "model.mimo_norm.", "mimo_output.")


def is_branch(name: str) -> bool:
    """Whether a tensor belongs to the audio branch, which text output does not depend on."""
    return name.startswith(BRANCH_PREFIXES)


def read_config(folder: Path) -> KimiAudioConfig:
    """``config.json`` of a checkpoint folder."""
    path, remedy = folder / "config.json", "Set model.path to a Kimi-Audio checkpoint"
    fields = read_json_object(path, remedy)
    try:
        return KimiAudioConfig(**fields)
    except (TypeError, ValueError, ArithmeticError, StrictDataclassError) as error:
        problem = " ".join(str(error).split())
        raise DataError(path, f"describes no Kimi-Audio model ({problem})", remedy) from None


def read_model(
    folder: Path, dtype: torch.dtype, audio_branch: bool = True, device: str | torch.device = "cpu"
) -> KimiAudioForCausalLM:
    """Build the model on the meta device and fill it tensor by tensor: one copy, straight onto ``device``.

    On the CPU, in the dtype of the files, the tensors are the memory-mapped files: nothing is copied. Every tensor but
    the known strays must be the config's; with ``audio_branch=False`` the branch's are not read. Raises DataError when
    names, shapes, the index's total_size or, for the 7B, the published parameter counts disagree.
    """
    config = read_config(folder)
    config.dtype = dtype
    config.name_or_path = str(folder)  # PEFT writes it into adapter_config.json
    if not audio_branch:
        config.kimia_mimo_layers = 0
    with torch.device("meta"):
        model = KimiAudioForCausalLM(config)
    if not audio_branch:
        del model.mimo_output, model.model.mimo_norm

    def own_name(stored: str) -> str | None:
        unread = stored.endswith(STRAY_SUFFIX) or (not audio_branch and is_branch(stored))
        return None if unread else stored

    load_tensors(model, folder, own_name, dtype, device)
    if config.is_7b:
        check_parameter_count(model, "decoder" if audio_branch else "decoder without audio branch", folder)
    # The rotary table is not part of a checkpoint; on the meta device it is empty.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(device)
    return model.requires_grad_(False).eval()


def write_model(model: KimiAudioForCausalLM, folder: Path, dtype: torch.dtype, shard_bytes: int = 5 * 2**30) -> None:
    """Write ``config.json``, shards and index in the published layout."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        key: value.detach().to(dtype).contiguous()
        for key, value in model.state_dict().items()
        if not key.startswith("whisper_model.")
    }
    sizes = {key: tensor.nbytes for key, tensor in state.items()}
    shards = plan_shards(sizes, shard_bytes)
    for file, keys in shards.items():
        save_file({key: state[key] for key in keys}, folder / file, metadata={"format": "pt"})
    save_json(shard_index(sizes, shards), folder / INDEX_NAME)
    save_json(published_config(model.model.config, dtype), folder / "config.json")


def published_config(config: KimiAudioConfig, dtype: torch.dtype) -> dict:
    """The config in the published file's own words (``rope_theta``, ``torch_dtype``)."""
    fields = {k: v for k, v in config.to_diff_dict().items() if k not in ("rope_parameters", "layer_types", "dtype")}
    fields |= {"rope_theta": config.rope_theta, "torch_dtype": str(dtype).removeprefix("torch.")}
    fields |= {"architectures": ["MoonshotKimiaForCausalLM"], "model_type": config.model_type}
    return fields
