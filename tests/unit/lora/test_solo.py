from __future__ import annotations

import pytest

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import LoraConfig, ModelConfig, TrainerConfig
from kimi_audio_ft.lora.solo import why_solo

ZERO = {"zero_optimization": {"stage": 3}}


class TestWhySolo:
    def test_most_adapters_may_share(self) -> None:
        for lora in ({}, {"use_rslora": True}, {"init_lora_weights": "gaussian"}, {"target_modules": "lm_head"}):
            assert why_solo(LoraConfig(**lora), ModelConfig(), TrainerConfig(strategy="ddp")) is None

    @pytest.mark.parametrize(
        ("lora", "model", "trainer", "reason"),
        [
            ({"use_dora": True}, {}, {}, "lora.use_dora=true: "),
            ({}, {"quantization": "nf4"}, {}, "model.quantization=nf4: "),
            ({}, {}, {"strategy": "fsdp"}, "trainer.strategy=fsdp: "),
            ({}, {}, {"strategy": "deepspeed_zero3", "deepspeed": ZERO}, "trainer.strategy=deepspeed_zero3: "),
        ],
    )
    def test_reasons(self, lora: dict, model: dict, trainer: dict, reason: str) -> None:
        said = why_solo(LoraConfig(**lora), ModelConfig(**model), TrainerConfig(**trainer))
        assert said is not None and said.startswith(reason)

    def test_whisper(self) -> None:
        lora = LoraConfig(target_modules="report")
        targets = Base(ModelConfig(dtype="float32"), "online", "cpu").targets(lora)
        said = why_solo(lora, ModelConfig(), targets=targets)
        assert said is not None and said.startswith("lora.target_modules=report: an adapted Whisper encoder")
