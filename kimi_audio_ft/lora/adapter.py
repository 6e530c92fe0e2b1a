"""Making, saving and loading LoRA adapters with PEFT."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.lora.targets import matched_modules, target_pattern
from kimi_audio_ft.model.decoder import KimiAudioForCausalLM
from kimi_audio_ft.schema import LoraConfig

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def peft_config(settings: LoraConfig, base: str = "") -> peft.LoraConfig:
    """Our settings in PEFT's words."""
    assert settings.lora_alpha is not None, "LoraConfig.__post_init__ sets it"
    start: Any = True if settings.init_lora_weights == "default" else settings.init_lora_weights
    return peft.LoraConfig(
        base_model_name_or_path=base,
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=target_pattern(settings.target_modules),
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        init_lora_weights=start,
        bias="none",
    )


def add_adapter(model: KimiAudioForCausalLM, settings: LoraConfig, seed: int, base: str = "") -> peft.PeftModel:
    """Freeze the base and put a fresh adapter on it; its start depends on the seed alone.

    The adapter is float32 whatever the base is (PEFT casts around it).
    """
    matched_modules(model, settings.target_modules)
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stable_seed("adapter", seed))
        return peft.get_peft_model(model, peft_config(settings, base))


def load_adapter(model: KimiAudioForCausalLM, folder: Path) -> peft.PeftModel:
    """Put a saved adapter on the base, for decoding.

    Raises:
        DataError: the folder holds no adapter, or one for another model.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise DataError(folder / name, "no such file", "Name a folder that holds an adapter in PEFT's format")
    try:
        return peft.PeftModel.from_pretrained(model, str(folder), is_trainable=False).eval()
    except (RuntimeError, ValueError) as error:
        problem = f"does not fit the base ({str(error).strip().splitlines()[0]})"
        raise DataError(folder, problem, "Set model.path to the base that it was trained on") from error


def save_adapter(model: peft.PeftModel, folder: Path) -> None:
    """Write the adapter in PEFT's format: weights and config, nothing of the base."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous() for key, value in get_peft_model_state_dict(model).items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    config = model.peft_config["default"]
    config.inference_mode = True
    config.save_pretrained(str(folder))
    config.inference_mode = False


def trainable_parameters(model: torch.nn.Module) -> int:
    """Number of parameters that training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def stable_seed(*facts: object) -> int:
    """A 63-bit seed from any facts, the same on every machine and in every process."""
    digest = hashlib.sha256("\0".join(map(str, facts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
