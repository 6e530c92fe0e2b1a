"""Transcripts decoded together from one prefill are those of separate runs, token for token, in the same products."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from kimi_audio_ft.config.train import DecodingConfig, LoraConfig, TrainConfig
from kimi_audio_ft.decoding import transcribe
from kimi_audio_ft.decoding.request import DecodingRequest
from kimi_audio_ft.decoding.transcripts import EvaluationSet, Transcripts, decode, decode_all
from kimi_audio_ft.lora.adapter import ONE, save_adapter
from kimi_audio_ft.manifest.conversation import TEXT_EOS
from kimi_audio_ft.trial import Trial

REQUESTS = [
    *(
        DecodingRequest(DecodingConfig(temperature, top_k, max_new_tokens=8, repeats=3, batch_size=4), seed)
        for temperature, top_k, seed in ((0.3, 0, 1), (0.3, 5, 1), (1.0, 0, 1), (1.0, 5, 1), (1.0, 5, 2))
    ),
    DecodingRequest(DecodingConfig(0.0, max_new_tokens=8, repeats=3, batch_size=4), 1),
    DecodingRequest(DecodingConfig(0.0, max_new_tokens=3, batch_size=4), 1),
    DecodingRequest(DecodingConfig(0.0, 0, 1.2, 2, max_new_tokens=8, batch_size=4), 1),
    DecodingRequest(DecodingConfig(1.0, 5, 1.2, 2, max_new_tokens=12, batch_size=4), 1),
]


@pytest.fixture
def trial(trial_config: Callable[..., TrainConfig]) -> Iterator[Trial]:
    """Nine prompts of the tiny model, of different length. They are noise, so it has to be urged to say anything."""
    trial = Trial(trial_config())
    model, special = trial.base.load(), trial.base.tokenizer.special_tokens
    bias = torch.zeros(model.lm_head.out_features)
    bias[list(special.values())] = -1e4
    bias[special[TEXT_EOS]] = -15.0
    bias[trial.base.tokens.first :] = -1e4
    hook = model.lm_head.register_forward_hook(lambda _, args, out: out + bias)
    yield trial
    hook.remove()


@pytest.fixture
def adapter(trial: Trial, tmp_path: Path) -> tuple[str, Path]:
    """A random adapter that changes the answers."""
    torch.manual_seed(3)
    with trial.base.new_adapters({ONE: (LoraConfig(r=4), 1)}) as model:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.03)
        save_adapter(model, tmp_path / "adapter")
    return "random", tmp_path / "adapter"


def same(one: Sequence[Transcripts], other: Sequence[Transcripts]) -> bool:
    return [(t.signatures, t.hypotheses) for t in one] == [(t.signatures, t.hypotheses) for t in other]


@pytest.mark.parametrize("adapted", [False, True], ids=["base", "adapter"])
def test_together_as_separately(
    trial: Trial, adapter: tuple[str, Path], adapted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation, used = trial.evaluation, adapter if adapted else None
    separate = [decode(evaluation, request.setting, request.seed, used) for request in REQUESTS]
    texts = {str(answers) for transcripts in separate for answers in transcripts.hypotheses}
    assert len(texts) > 15, "settings, seeds and repeats must give different texts"
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(tmp_path / "another"))
    together = decode_all(evaluation, REQUESTS, used)
    assert same(together, separate)


def test_seeds_that_do_not_tell_repeats_apart_are_seen(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: one generator's seed for all repeats of an utterance."""
    separate = [decode(trial.evaluation, request.setting, request.seed, None) for request in REQUESTS[:4]]
    assert all(one.hypotheses for one in separate), "they are read from the store when they are asked for"
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(tmp_path / "another"))
    seed = transcribe.utterance_seed
    monkeypatch.setattr(transcribe, "utterance_seed", lambda number, repeat, utterance: seed(number, 0, utterance))
    assert not same(decode_all(trial.evaluation, REQUESTS[:4], None), separate)


def test_an_adapter_changes_the_answers(trial: Trial, adapter: tuple[str, Path]) -> None:
    evaluation: EvaluationSet = trial.evaluation
    [alone], [adapted] = (decode_all(evaluation, REQUESTS[-4:-3], used) for used in (None, adapter))
    assert alone.hypotheses != adapted.hypotheses and alone.signatures != adapted.signatures
