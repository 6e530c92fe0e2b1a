"""bitsandbytes is left out until a 4-bit base wants it, and is there then, also for PEFT."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.forkserver import fork_command

# A process in which a plain base is trained before a 4-bit one, as a sweep over both may do.
PROGRAM = """
import sys
from kimi_audio_ft.runtime.libraries import leave_out_bitsandbytes
leave_out_bitsandbytes()

import torch
from kimi_audio_ft.lora.adapter import ONE, add_adapter
from kimi_audio_ft.model import KimiAudioForCausalLM
from kimi_audio_ft.model.quantization import quantize_layers
from kimi_audio_ft.paths import TINY_MODEL
from kimi_audio_ft.config.train import LoraConfig

def kinds(quantized):
    model = KimiAudioForCausalLM.from_pretrained(TINY_MODEL, torch.bfloat16, False)
    if quantized:
        quantize_layers(model, torch.device("cpu"))
    adapted = add_adapter(model, LoraConfig(r=2), 1)
    return {type(module).__module__ for module in adapted.modules() if hasattr(module, "lora_A")}

print(*kinds(False), sys.modules["bitsandbytes"], "torch._inductor.compile_fx" in sys.modules)
print(*kinds(True), sys.modules["bitsandbytes"].__name__)
"""


@pytest.mark.slow
def test_it_is_imported_when_a_base_is_put_into_4_bits(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes (the extra `gpu`)")
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    out, err = tmp_path / "out", tmp_path / "err"
    process = fork_command("program", [], tmp_path, os.environ, out, err)
    process.join()
    assert process.exitcode == 0, err.read_text(encoding="utf-8")
    plain, small = out.read_text(encoding="utf-8").splitlines()
    assert plain == "peft.tuners.lora.layer None False"
    assert small == "peft.tuners.lora.bnb bitsandbytes"
