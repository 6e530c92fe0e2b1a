"""One trial: fit (or reuse) an adapter, decode, score. Every step is a product of the store."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kimi_audio_ft import store
from kimi_audio_ft.base_model import Base
from kimi_audio_ft.data.datamodule import BatchRules, ConversationData
from kimi_audio_ft.data.manifest import manifest_identity, read_manifest, require_references
from kimi_audio_ft.decoding.transcribe import is_greedy, transcribe
from kimi_audio_ft.devices import in_workers, num_ranks
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.lora.adapter import ONE
from kimi_audio_ft.schema import DataConfig, DecodingConfig, TrainConfig
from kimi_audio_ft.signature import signature
from kimi_audio_ft.training.fit import fit_adapters
from kimi_audio_ft.training.members import Member
from kimi_audio_ft.training.ranks import fit_in_workers
from kimi_audio_ft.training.stopping import TrainingFailed, stop_on_signals

log = logging.getLogger(__name__)


@dataclass
class Adapter:
    """A stored adapter. reused: it was there before this trial."""

    signature: str
    folder: Path
    facts: dict[str, Any]
    reused: bool


@dataclass
class Transcripts:
    """Hypotheses by id, one dict per repeat, and what making them took in all (seconds)."""

    signatures: list[str]
    hypotheses: list[dict[str, str]]
    seconds: float


class EvaluationSet:
    """The conversations that are decoded and scored."""

    def __init__(self, base: Base, settings: DataConfig) -> None:
        self.base, self.settings = base, settings
        path = settings.eval_manifest
        require_manifest("data.eval_manifest", path)
        self.conversations = read_manifest(path, settings.audio_root, settings.prompt, base.tokens, base.tokenizer)
        require_references(self.conversations, path)
        self.identity = manifest_identity(self.conversations)

    @cached_property
    def references(self) -> dict[str, str]:
        """Reference of every conversation by id."""
        return {conversation.id: conversation.reference for conversation in self.conversations}

    @cached_property
    def audio(self) -> dict[str, str | None]:
        """First recording of every conversation by id."""
        return {c.id: str(c.audio_paths[0]) if c.audio_paths else None for c in self.conversations}


def require_manifest(option: str, path: str) -> None:
    """Raise a ConfigError unless the option names a file."""
    if not Path(path).is_file():
        rule = "must name a pretokenized manifest" + (", and there is no such file" if path else "")
        remedy = f"Write {option}=FILE.tokens.jsonl, as tokenize wrote it; `make demo` makes the demo's"
        raise ConfigError(option, path, rule, remedy)


class Trial:
    """One point of a sweep, from its config. rank: of this process among those that train its adapter together."""

    def __init__(self, config: TrainConfig, rank: int = 0) -> None:
        self.config, self.rank = config, rank
        self.base = Base(config.model, config.data.features, config.trainer.accelerator)

    @cached_property
    def evaluation(self) -> EvaluationSet:
        """The evaluation set."""
        return EvaluationSet(self.base, self.config.data)

    @cached_property
    def data(self) -> ConversationData:
        """Training and validation batches."""
        config = self.config
        rules = BatchRules(
            config.trainer.accumulate,
            config.optim.loss_average,
            config.seed,
            config.trainer.progress,
            rank=self.rank,
            ranks=num_ranks(config.trainer),
        )
        return ConversationData(config.data, self.base.tokenizer, self.base.encoders(), self.base.tokens, rules)

    @cached_property
    def training_signature(self) -> str:
        """Identity of the adapter: everything that its weights depend on."""
        config = asdict(self.config)
        groups = {name: config[name] for name in ("data", "model", "lora", "optim", "trainer", "seed")}
        # What a step holds decides the result; how many processes share it does not.
        groups["trainer"] |= {"accumulate": config["trainer"]["accumulate"] * num_ranks(self.config.trainer)}
        data = self.config.data
        require_manifest("data.train_manifest", data.train_manifest)
        base = self.base
        manifest = read_manifest(data.train_manifest, data.audio_root, data.prompt, base.tokens, base.tokenizer)
        return signature("adapter", groups, {"train": manifest_identity(manifest), **base_inputs(base)})

    def fit(
        self,
        folder: Path,
        work: Path,
        on_row: Callable[[dict[str, Any]], None] | None,
        should_stop: Callable[[], bool] | None = None,
    ) -> dict[str, Any]:
        """Train the adapter in this process (one of several, under a strategy of several ranks).

        Raises:
            TrainingFailed: the loss was not finite.
            Interrupted: ``should_stop`` said so; there is a checkpoint of that step.
        """
        config = self.config
        member = Member(ONE, config.lora, config.optim, config.seed, folder, work)
        row = None if on_row is None else lambda name, row: on_row(row)
        result = fit_adapters(self.base, [member], self.data, config.trainer, on_row=row, should_stop=should_stop)[ONE]
        if isinstance(result, TrainingFailed):
            raise result
        return result

    def adapter(self, on_row: Callable[[dict[str, Any]], None] | None = None) -> Adapter:
        """The adapter, fitted now unless the store has it; ``on_row`` sees the points of its curves."""
        config, name = self.config, self.training_signature
        self.base.targets(config.lora)

        def make(folder: Path) -> dict[str, Any]:
            work = store.work_folder("adapter", name)
            if in_workers(config.trainer):
                facts = fit_in_workers(self, folder, work, on_row)
            else:
                with stop_on_signals() as should_stop:
                    facts = self.fit(folder, work, on_row, should_stop)
            return {**facts, "config": asdict(config), "eval_identity": self.evaluation.identity}

        folder, reused = store.find_or_make("adapter", name, make)
        facts = store.read_meta(folder)
        # An adapter does not depend on the evaluation set; its validation losses do.
        same_eval = facts["eval_identity"] == self.evaluation.identity
        if not same_eval:
            facts["final_val_loss"] = None
        if reused and on_row is not None:
            for row in store.read_jsonl(folder / "curves.jsonl"):
                if same_eval or row["split"] != "val":
                    on_row(row)
        return Adapter(name, folder, facts, reused)


def base_inputs(base: Base) -> dict[str, Any]:
    """Identities of the checkpoint's parts that a run reads."""
    inputs: dict[str, Any] = {"base": base.identity}
    if base.features != "none":
        inputs["encoders"] = base.encoders(features=True).signature()
    return inputs


def decode(
    base: Base,
    evaluation: EvaluationSet,
    decoding: DecodingConfig,
    seed: int,
    adapter: tuple[str, Path] | None,
    progress: bool = False,
) -> Transcripts:
    """Transcripts of the evaluation set, one per repeat, made now unless the store has them.

    Args:
        adapter: identity and folder of a saved adapter; None decodes the base alone.
    """
    canonical = decoding
    if is_greedy(decoding):  # nothing is drawn, so these settings change nothing
        canonical, seed = replace(decoding, text_temperature=0.0, text_top_k=0, repeats=1), 0
    groups = {"data": asdict(evaluation.settings), "model": asdict(base.settings), "decoding": asdict(canonical)}
    signatures, hypotheses, seconds = [], [], 0.0
    for repeat in range(canonical.repeats):
        inputs = {
            "adapter": adapter[0] if adapter else "base",
            "eval": evaluation.identity,
            "seed": seed,
            "repeat": repeat,
            **base_inputs(base),
        }
        name = signature("transcript", groups, inputs)

        def make(folder: Path, repeat: int = repeat, inputs: dict[str, Any] = inputs) -> dict[str, Any]:
            started = time.monotonic()
            answers = _transcribe(base, evaluation, canonical, seed, repeat, adapter, progress)
            store.write_jsonl(folder / "transcripts.jsonl", [{"id": k, "text": v} for k, v in answers.items()])
            return {"decode_seconds": round(time.monotonic() - started, 3), "inputs": inputs}

        folder, _ = store.find_or_make("transcript", name, make)
        signatures.append(name)
        hypotheses.append({row["id"]: row["text"] for row in store.read_jsonl(folder / "transcripts.jsonl")})
        seconds += store.read_meta(folder)["decode_seconds"]
    return Transcripts(signatures, hypotheses, seconds)


def _transcribe(
    base: Base,
    evaluation: EvaluationSet,
    decoding: DecodingConfig,
    seed: int,
    repeat: int,
    adapter: tuple[str, Path] | None,
    progress: bool,
) -> dict[str, str]:
    settings = evaluation.settings
    data = ConversationData(
        settings, base.tokenizer, base.encoders(), base.tokens, BatchRules(1, "sample", 0, progress)
    )
    prompts = data.dataset(evaluation.conversations, settings.eval_manifest, None, for_generation=True)
    visible = progress and sys.stdout.isatty()  # in a file this bar, which vanishes, is an empty line
    with base.saved_adapter(adapter[1] if adapter else None) as model:
        return transcribe(model, prompts, base.tokenizer, decoding, base.tokens.first, seed, repeat, visible)
