"""The published way of working, and ours, built from the same parts; imported by the measured process only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from peft import PeftModel

from experiments.sweep_ladder.seconds import Seconds, now
from experiments.sweep_ladder.spec import OnRow, Spec
from kimi_audio_ft.base import Base
from kimi_audio_ft.cli import to_settings
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.data.datamodule import BatchRules, Collate, ConversationData, ResumableLoader
from kimi_audio_ft.data.dataset import make_batch
from kimi_audio_ft.decoding.request import DecodingRequest
from kimi_audio_ft.decoding.transcribe import transcribe
from kimi_audio_ft.manifest.audio import read_audio
from kimi_audio_ft.model import KimiAudioForCausalLM
from kimi_audio_ft.paths import config_dir
from kimi_audio_ft.runtime.devices import limit_threads
from kimi_audio_ft.runtime.libraries import quiet_libraries
from kimi_audio_ft.runtime.signals import Interrupted
from kimi_audio_ft.training.adapters import AdapterSpec
from kimi_audio_ft.training.fit import fit_adapters
from kimi_audio_ft.trial import Trial


class WholeBase(Base):
    """A base that computes the audio branch and both heads at every position, and then takes what it was asked for.

    The published loss adds the branch's own, which is 0 times something for a text answer, and goes back through it.
    """

    def load(self, audio_branch: bool = False) -> KimiAudioForCausalLM:
        model = super().load(True)
        if "forward" not in vars(model):
            compute = model.forward

            def forward(*args: Any, text_positions: torch.Tensor | None = None, **options: Any) -> Any:
                out = compute(*args, **options | {"audio_branch": True})
                assert out.text_logits is not None and out.audio_logits is not None
                logits = out.text_logits
                if text_positions is not None:
                    logits = logits.flatten(0, 1)[text_positions.flatten()]  # a mask, or places
                if torch.is_grad_enabled():
                    logits = logits + 0.0 * out.audio_logits.sum()
                return out._replace(text_logits=logits)

            model.forward = forward  # type: ignore[method-assign]
        return model


class Singly(Collate):
    """Every conversation is a micro-batch."""

    def __call__(self, samples: Any) -> Any:
        return [make_batch([sample], self.pad_id, online=self.online) for sample in samples]


class OneByOne(ConversationData):
    """The same optimizer steps, accumulated over batches of one."""

    def steps_of(self, epoch: int) -> ResumableLoader:
        loader = super().steps_of(epoch)
        loader.collate_fn = Singly(self.tokenizer.pad_id, self.settings.features == "online")
        return loader


def config_of(spec: Spec) -> TrainConfig:
    """The trial's config, composed as the command composes it."""
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    work, way = spec.workload, spec.way
    own = [f"lora.r={work.ranks[-1]}", f"optim.lr={work.rates[0]}", f"trainer.val_every={spec.steps}"]
    batch = 1 if way.decoding == "singly" else 8
    own += [f"data.features={'online' if way.online else 'cached'}", f"decoding.batch_size={batch}"]
    with initialize_config_dir(config_dir(), version_base="1.3"):
        config = to_settings(compose("train", [*work.overrides, *own]))
    assert isinstance(config, TrainConfig)
    return config


def prepared(spec: Spec) -> tuple[Trial, ConversationData]:
    """The trial and its data, read and checked."""
    config = config_of(spec)
    limit_threads(config.trainer.threads)
    quiet_libraries()
    trial = Trial(config)
    if spec.way.everything:
        own = {name: getattr(trial.base, name) for name in ("settings", "features", "accelerator")}
        trial.base = WholeBase(plain=True, **own)
    rules = BatchRules(config.trainer.accumulate, config.optim.loss_average, config.seed)
    kind = OneByOne if spec.way.singly else ConversationData
    data = kind(config.data, trial.base.tokenizer, trial.base.encoders(), trial.base.tokens, rules)
    data.setup()
    return trial, data


def fitted(spec: Spec, trial: Trial, data: ConversationData, folder: Path, on_row: OnRow) -> None:
    """Train the first steps of the whole training, and leave."""
    config, done = trial.config, 0

    def enough() -> bool:
        nonlocal done
        done += 1
        return done == spec.steps

    members = [
        AdapterSpec(
            f"m{number}", config.lora, config.optim, config.seed, folder / f"out{number}", folder / f"work{number}"
        )
        for number in range(spec.way.pack)
    ]
    with suppress(Interrupted):  # a training of just so many steps has no need to stop
        fit_adapters(
            trial.base, members, data, config.trainer, dispatch=spec.way.dispatch, on_row=on_row, should_stop=enough
        )


@contextmanager
def decoder(spec: Spec, trial: Trial) -> Iterator[torch.nn.Module]:
    """The base with the trained adapter, merged as a published user decodes it unless all settings share a prefill."""
    with trial.base.saved_adapter(Path(spec.adapter)) as model:
        assert isinstance(model, PeftModel)
        yield model if spec.way.decoding == "together" else model.merge_and_unload(safe_merge=True)


def decoded(spec: Spec, trial: Trial, model: torch.nn.Module) -> tuple[dict[str, dict[str, str]], int]:
    """Some utterances under every temperature of the sweep.

    Returns:
        Texts by temperature and id, and the number of utterances.
    """
    base, config = trial.base, trial.config
    everyone = trial.evaluation.conversations
    count = min(spec.utterances, len(everyone))
    some = everyone.select(np.linspace(0, len(everyone) - 1, count).round().astype(int))
    rules = BatchRules(1, "sample", 0)
    data = ConversationData(config.data, base.tokenizer, base.encoders(), base.tokens, rules, config.prompt)
    prompts = data.dataset(some, None, for_generation=True)
    settings = [replace(config.decoding, text_temperature=value) for value in spec.workload.temperatures]
    requests = [DecodingRequest(decoding, config.seed) for decoding in settings]
    groups = [requests] if spec.way.decoding == "together" else [[one] for one in requests]
    found: list[dict[str, str]] = [
        dict(texts)
        for group in groups
        for texts in transcribe(model, prompts, base.tokenizer, group, base.tokens.first)
    ]
    return {f"{one.setting.text_temperature:g}": texts for one, texts in zip(requests, found, strict=True)}, count


def encoding(trial: Trial, data: ConversationData, count: int) -> Seconds:
    """What Whisper takes for all recordings of the corpus, from some of them in batches of 8."""
    paths = [path for conversation in data.eval_conversations[:count] for path in conversation.audio_paths]
    whisper = trial.base.load().whisper_model
    assert whisper is not None
    before = now()
    whisper.encode([read_audio(path) for path in paths])
    return (now() - before) * ((len(data.train_set) + len(data.eval_set)) / len(paths))
