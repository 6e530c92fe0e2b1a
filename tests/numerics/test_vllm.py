"""The real vLLM, where KIMI_AUDIO_FT_VLLM_PYTHON names the Python of an environment that has it: greedy texts are the
native ones, and samples come from the same distribution.

experiments/vllm.md has a run, with the demo's adapters.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kimi_audio_ft.config.train import DecodingConfig, LoraConfig, TrainConfig, VllmConfig
from kimi_audio_ft.decoding.kept import vllm_kept
from kimi_audio_ft.decoding.request import DecodingRequest
from kimi_audio_ft.decoding.transcripts import decode_all
from kimi_audio_ft.lora.adapter import add_adapter, save_adapter
from kimi_audio_ft.trial import Trial

VARIABLE = "KIMI_AUDIO_FT_VLLM_PYTHON"
PYTHON = os.environ.get(VARIABLE)
COLD = DecodingConfig(text_temperature=0.0, max_new_tokens=12)
# So hot that an utterance has about five first tokens.
WARM = DecodingConfig(text_temperature=2.0, text_top_k=5, max_new_tokens=1, repeats=100)


def saved(trial: Trial, folder: Path, seed: int, **lora: int) -> tuple[str, Path]:
    """An adapter with much to say."""
    adapted = add_adapter(trial.base.load(), LoraConfig(**lora), 1)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    save_adapter(adapted, folder)
    trial.base.release()
    return f"a{folder.name}", folder


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason=f"{VARIABLE} names no Python of an environment with vLLM")
def test_greedy_texts_and_the_distribution_of_samples_are_the_native_ones(
    trial_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    trial, by_vllm = Trial(trial_config()), {"engine": "vllm", "vllm": VllmConfig(PYTHON)}
    adapters = saved(trial, tmp_path / "one", 4, r=4), None, saved(trial, tmp_path / "two", 5, r=16)
    settings = [COLD, WARM, replace(COLD, **by_vllm), replace(WARM, **by_vllm)]  # type: ignore[arg-type]
    requests = [DecodingRequest(setting, 1) for setting in settings]
    with vllm_kept(rank=16):
        found = [decode_all(trial.evaluation, requests, adapter) for adapter in adapters]
    for cold, _, cold_vllm, _ in found:
        assert cold_vllm.hypotheses == cold.hypotheses
        assert [answer.is_cut for answer in cold_vllm.hypotheses[0].values()] == [
            answer.is_cut for answer in cold.hypotheses[0].values()
        ]
        assert cold_vllm.environment is not None and cold_vllm.environment["vllm"]["vllm"]
    assert len({tuple(one[0].hypotheses[0].values()) for one in found}) == 3
    # Pearson's statistic of first tokens, native against vLLM, over all utterances; its mean is the degrees of freedom.
    statistic, freedom = 0.0, 0
    for key in trial.evaluation.references:
        native, other = ([repeat[key] for repeat in found[0][index].hypotheses] for index in (1, 3))
        counts = [Counter(native), Counter(other)]
        table = np.array([[one[text] for text in sorted(counts[0] | counts[1])] for one in counts])
        expected = table.sum(0) / 2
        statistic += float(((table - expected) ** 2 / expected).sum())
        freedom += table.shape[1] - 1
    assert freedom >= 20 and statistic < freedom + 4 * (2 * freedom) ** 0.5
