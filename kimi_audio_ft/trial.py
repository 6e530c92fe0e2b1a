"""One trial: fit (or reuse) an adapter, decode, score. Every step is a product of the store."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimi_audio_ft import store
from kimi_audio_ft.base_model import Base, base_inputs
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.data.identity import manifest_identity
from kimi_audio_ft.data.manifest import read_manifest
from kimi_audio_ft.data.subset import training_subset
from kimi_audio_ft.engine import known
from kimi_audio_ft.files import read_jsonl
from kimi_audio_ft.runtime.devices import in_workers, num_ranks
from kimi_audio_ft.runtime.signals import TrainingFailed, stop_on_signals
from kimi_audio_ft.store.cache import seen_once
from kimi_audio_ft.store.signature import signature
from kimi_audio_ft.store.usage import note
from kimi_audio_ft.training.ranks import fit_in_workers
from kimi_audio_ft.transcripts import EvaluationSet, evaluation_set, require_manifest

if TYPE_CHECKING:
    from kimi_audio_ft.data.datamodule import ConversationData

log = logging.getLogger(__name__)


@dataclass
class Adapter:
    """A stored adapter. reused: it was there before this trial, and its sweep did not make it for this trial."""

    signature: str
    folder: Path
    facts: dict[str, Any]
    reused: bool


class Trial:
    """One point of a sweep, from its config. rank: of this process among those that train its adapter together."""

    def __init__(self, config: TrainConfig, rank: int = 0) -> None:
        self.config, self.rank = config, rank
        self.base = Base(config.model, config.data.features, config.trainer.accelerator, config.trainer.threads)

    @cached_property
    def evaluation(self) -> EvaluationSet:
        """The evaluation set."""
        return evaluation_set(self.base, self.config.data)

    @cached_property
    def data(self) -> ConversationData:
        """Training and validation batches."""
        from kimi_audio_ft.data.datamodule import BatchRules, ConversationData

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
        named = (data.train_manifest, data.audio_root, data.prompt)
        part = (data.train_subset, data.train_subset_seed)
        train = seen_once(
            ("train", *named, *part, base.files),
            lambda: manifest_identity(training_subset(read_manifest(*named, base.tokens, base.tokenizer), *part)),
        )
        return signature("adapter", groups, {"train": train, **base_inputs(base)})

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
        from kimi_audio_ft.lora.adapter import ONE
        from kimi_audio_ft.training.fit import fit_adapters
        from kimi_audio_ft.training.members import Member

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
        note([("adapter", name)])
        self.base.targets(config.lora)
        known.raise_if_failed(name)

        def make(folder: Path) -> dict[str, Any]:
            self.base.about_to_compute()
            work = store.work_folder("adapter", name)
            if in_workers(config.trainer):
                facts = fit_in_workers(self, folder, work, on_row)
            else:
                with stop_on_signals() as should_stop:
                    facts = self.fit(folder, work, on_row, should_stop)
            return {**facts, "config": asdict(config), "eval_identity": self.evaluation.identity}

        folder, stored = store.find_or_make("adapter", name, make)
        reused = stored and not known.take_fitted(name)
        trained_on = json.loads((folder / "data.json").read_text(encoding="utf-8"))
        facts = {**store.read_meta(folder), "train_conversations": trained_on["conversations"]}
        # An adapter does not depend on the evaluation set; its validation losses do.
        same_eval = facts["eval_identity"] == self.evaluation.identity
        if not same_eval:
            facts["final_val_loss"] = None
        if stored and on_row is not None:
            for row in read_jsonl(folder / "curves.jsonl"):
                if same_eval or row["split"] != "val":
                    on_row(row)
        return Adapter(name, folder, facts, reused)
