"""4-bit quantization of the frozen base (QLoRA, Dettmers et al. 2023, arXiv 2305.14314), for 24 GB GPUs."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.model.decoder import KimiAudioForCausalLM
from kimi_audio_ft.runtime.libraries import bring_back_bitsandbytes


def quantize_layers(model: KimiAudioForCausalLM, device: torch.device) -> None:
    """Move the model to a device with the linears of its decoder layers in NF4, in place.

    Embedding, heads, norms and adaptor keep their dtype. The 7B's text path takes 5.8 GB instead of 15.5 GB. Weights
    are moved one by one, so that the device never holds more than one unquantized. PEFT adds its own 4-bit LoRA layer
    to such linears (``is_loaded_in_4bit``).

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    bring_back_bitsandbytes()
    if find_spec("bitsandbytes") is None:
        rule = "needs bitsandbytes, which is not installed"
        raise ConfigError("model.quantization", "nf4", rule, "Run `pip install bitsandbytes`, or set it to null")
    for layer in (*model.model.layers, *model.model.mimo_layers):
        for block in (layer.self_attn, layer.mlp):
            for name, linear in list(block.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(block, name, _in_nf4(linear, device))
    nn.Module.to(model, device)
    flagged: Any = model
    flagged.is_loaded_in_4bit = True


def _in_nf4(linear: nn.Linear, device: torch.device) -> nn.Module:
    import bitsandbytes as bnb

    with torch.device("meta"):
        quantized = bnb.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=linear.weight.dtype,
            quant_type="nf4",
        )
    quantized.bias = linear.bias
    # On CPUs with AVX512-BF16 the first forward in eval mode would repack the weight for a kernel without gradients,
    # and the same base trains afterwards.
    flagged: Any = quantized
    flagged.support_avx512bf16_for_cpu = False
    # Moving such a parameter to a device quantizes it.
    weight: Any = bnb.nn.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4", module=quantized)
    quantized.weight = weight.to(device)
    return quantized.requires_grad_(False)
