"""LoRA adapters in PEFT's format: creating, saving and loading."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kimi_audio_ft.config.train import LoraConfig
from kimi_audio_ft.errors import DataError
from kimi_audio_ft.lora.targets import linears_of, matched, needs_branch, needs_whisper, target_pattern
from kimi_audio_ft.model.decoder import KimiAudioForCausalLM

# PEFT's name of a single adapter.
ONE = "default"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# Ends of the names of a plain LoRA's tensors: A, ``[r, in]``, and B, ``[out, r]``.
FACTORS = (".lora_A.weight", ".lora_B.weight")
# Start of these names, before the path of a module in the base.
PEFT_PREFIX = "base_model.model."
# Options of PEFT with which an update is another function of the factors than their scaled product.
_NOT_PLAIN = ("use_dora", "rank_pattern", "alpha_pattern", "lora_bias", "fan_in_fan_out", "layer_replication")
# Keys of PEFT's config that name modules to import, with the value that PEFT itself writes.
_IMPORTS = {"megatron_config": None, "megatron_core": "megatron.core", "auto_mapping": None}
# The published LoRA fork's name of Whisper's encoder, and ours.
_FORK = ("whisper_model.speech_encoder.", "whisper_model.encoder.")
# Parts of the model that an adapter may leave alone.
_PARTS = {r"whisper_model\..*": needs_whisper, r"model\.mimo_layers\..*|mimo_output.*": needs_branch}
# PEFT's initialisations that change the base's weights, which adapters share here.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def peft_config(settings: LoraConfig) -> peft.LoraConfig:
    assert settings.lora_alpha is not None, "LoraConfig.__post_init__ sets it"
    start: Any = True if settings.init_lora_weights == "default" else settings.init_lora_weights
    return peft.LoraConfig(
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
    """Freeze the base and add a fresh float32 adapter, whose initial values depend only on the seed."""
    return add_adapters(model, {ONE: (settings, seed)}, base)


def add_adapters(
    model: KimiAudioForCausalLM, adapters: Mapping[str, tuple[LoraConfig, int]], base: str = ""
) -> peft.PeftModel:
    """Freeze the base and add fresh adapters, each with the initial values of ``add_adapter``.

    After an error some layers of the base may be wrapped; ``Base`` then reads it again.
    """
    for settings, _ in adapters.values():
        matched(linears_of(model), settings.target_modules)  # raises if one matches nothing
    model.requires_grad_(False)
    adapted: peft.PeftModel | None = None
    for name, (settings, seed) in adapters.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stable_seed("adapter", seed))
            if adapted is None:
                adapted = peft.get_peft_model(model, peft_config(settings), adapter_name=name)
            else:
                adapted.add_adapter(name, peft_config(settings))
        adapted.peft_config[name].base_model_name_or_path = base  # PEFT overwrites it when wrapping
    assert adapted is not None, "no adapter to add"
    if len(adapters) > 1:
        tuner: Any = adapted.base_model
        tuner.set_adapter(list(adapters))  # all are trained; PeftModel's own method takes one name
    return adapted


def load_adapter(model: KimiAudioForCausalLM, folder: Path) -> peft.PeftModel:
    """Load a saved adapter onto the base, for decoding; DataError if there is none, or one for another model."""
    config, tensors = read_adapter(folder)
    return with_tensors(model, config, tensors, folder)


def read_adapter(folder: Path) -> tuple[peft.LoraConfig, dict[str, Tensor]]:
    """Config of a saved adapter and its tensors under PEFT's names; DataError if there is none."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise DataError(folder / name, "no such file", "Name a folder that holds an adapter in PEFT's format")
    try:
        _refuse_code(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
        config = peft.LoraConfig.from_pretrained(str(folder))
        if not isinstance(config, peft.LoraConfig):
            raise TypeError(f"peft_type is {config.peft_type}")
        tensors = _as_ours(config, load_file(folder / WEIGHTS))
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        problem = f"is not a LoRA adapter in PEFT's format ({str(error).strip()})"
        raise DataError(folder, problem, "Name another folder, or make the adapter again") from None
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise DataError(folder, f"{name} has values that are not finite", "Train the adapter again")
    if str(config.init_lora_weights).lower().startswith(_CHANGES_BASE):
        problem = f"starts from init_lora_weights={config.init_lora_weights!r}, which changes the base's own weights"
        remedy = "Convert it with PEFT: save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        raise DataError(folder, problem, remedy)
    config.inference_mode = True
    return config, tensors


def not_plain(config: peft.LoraConfig) -> list[str]:
    """Options that are set and make an adapter more than products of two factors at one rank and scale."""
    return [name for name in _NOT_PLAIN if getattr(config, name, None)]


def _as_ours(config: peft.LoraConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors to our names, and exclude from the config's targets the parts of the model without a tensor.

    The parts are Whisper and the audio branch. Bare target names match every part that is loaded; without the exclusion
    the same adapter would be refused on a base with its Whisper encoder, for which the published fork has another name.
    PEFT saves unchanged base layers of heads beside the adapter, which are left out.
    """
    renamed = {key.replace(*_FORK): value for key, value in tensors.items() if not key.endswith(".base_layer.weight")}
    targets: Any = config.target_modules
    if isinstance(targets, str):
        config.target_modules = targets.replace("speech_encoder", "encoder")
    elif targets is not None:
        config.target_modules = [name.replace("speech_encoder", "encoder") for name in sorted(targets)]
    names = [key.removeprefix(PEFT_PREFIX) for key in renamed]
    absent = [pattern for pattern, needs in _PARTS.items() if not needs(names)]
    if absent and config.exclude_modules is None:
        config.exclude_modules = "|".join(absent)
    return renamed


def _refuse_code(config: dict[str, Any]) -> None:
    """Raise a ValueError for keys by which PEFT imports Python modules that an adapter's config names."""
    for key, usual in _IMPORTS.items():
        if config.get(key) not in (None, usual):
            raise ValueError(f"{key}={config[key]!r} names Python code to import")


def with_tensors(
    model: KimiAudioForCausalLM, config: peft.LoraConfig, tensors: dict[str, Tensor], folder: Path
) -> peft.PeftModel:
    """The base with an adapter of exactly these tensors; PEFT only warns of missing ones.

    On a base on the meta device the adapter is there too and has no values.
    """
    remedy = "Set model.path to the base that it was trained on"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You have passed exclude_modules")  # there was nothing to exclude
            adapted = peft.PeftModel(model, config, low_cpu_mem_usage=model.device.type == "meta")
    except ValueError as error:
        raise DataError(folder, f"does not fit the base ({str(error).strip()})", remedy) from None
    expected = {key: tuple(value.shape) for key, value in adapter_state(adapted).items()}
    given = {key: tuple(value.shape) for key, value in tensors.items()}
    if expected != given:
        adapted.unload()
        odd = sorted(key for key in expected.keys() | given.keys() if expected.get(key) != given.get(key))
        found, fitting = given.get(odd[0], "no tensor"), expected.get(odd[0], "no such target")
        problem = f"does not fit the base ({odd[0]}: the adapter has {found}, the base {fitting}; {len(odd)} such)"
        raise DataError(folder, problem, remedy)
    set_peft_model_state_dict(adapted, tensors, low_cpu_mem_usage=model.device.type == "meta")
    return adapted.eval()


def save_adapter(
    model: peft.PeftModel, folder: Path, parameters: Mapping[str, Tensor] | None = None, name: str = ONE
) -> None:
    """Write an adapter's weights and config in PEFT's format, without the base.

    Args:
        parameters: the trained parameters by name, if the model's own are sharded.
        name: of the adapter, on a model with several.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous() for key, value in adapter_state(model, parameters, name).items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    config = model.peft_config[name]
    config.inference_mode = True
    config.save_pretrained(str(folder))
    config.inference_mode = False


def adapter_state(
    model: peft.PeftModel, parameters: Mapping[str, Tensor] | None = None, name: str = ONE
) -> dict[str, Tensor]:
    """An adapter's tensors under PEFT's names, without the base's embedding and heads even if they are targets."""
    state = None if parameters is None else dict(parameters)
    return get_peft_model_state_dict(model, state_dict=state, adapter_name=name, save_embedding_layers=False)


def trainable_parameters(model: torch.nn.Module, name: str | None = None) -> int:
    """Number of trained parameters: all, or those of one adapter."""
    trained = ((key, value) for key, value in model.named_parameters() if value.requires_grad)
    return sum(value.numel() for key, value in trained if name is None or f".{name}." in key)


def stable_seed(*facts: object) -> int:
    """Seed of 63 bits from any facts, reproducible on every machine and in every process."""
    digest = hashlib.sha256("\0".join(map(str, facts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
