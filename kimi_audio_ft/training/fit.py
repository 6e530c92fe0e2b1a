"""Fitting adapters with Lightning, alone or as a pack, resumable at any moment."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments import LightningEnvironment
from peft import PeftModel
from torch.utils.data import DataLoader

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import TrainerConfig
from kimi_audio_ft.data.datamodule import ConversationData
from kimi_audio_ft.data.together import DataTogether
from kimi_audio_ft.files import write_json, write_jsonl
from kimi_audio_ft.lora.adapter import save_adapter, trainable_parameters
from kimi_audio_ft.lora.pack import WITHIN_ROUNDING, Pack
from kimi_audio_ft.lora.targets import needs_branch
from kimi_audio_ft.runtime.devices import device
from kimi_audio_ft.runtime.signals import Interrupted, Leave, TrainingFailed, own_signals, require_finite
from kimi_audio_ft.training.checkpoint import AdapterCheckpointIO, KeepCheckpoints, MembersCheckpointIO, checkpoint_of
from kimi_audio_ft.training.curves import CurveRecorder, Row
from kimi_audio_ft.training.endings import LeaveEarly, OnFailure, OnStep, ReportSteps, StopAtNonFinite
from kimi_audio_ft.training.members import Learner, Member
from kimi_audio_ft.training.module import AdapterTraining
from kimi_audio_ft.training.strategies import make_strategy

__all__ = ["Interrupted", "Member", "OnRow", "OnStep", "Result", "Row", "TrainingFailed", "fit_adapters"]

log = logging.getLogger(__name__)

Result = dict[str, Any] | TrainingFailed
OnRow = Callable[[str, Row], None]


def fit_adapters(
    base: Base,
    members: Sequence[Member],
    data: ConversationData | Mapping[str, ConversationData],
    settings: TrainerConfig,
    *,
    dispatch: str = "slice",
    until: int | None = None,
    on_row: OnRow | None = None,
    on_step: OnStep | None = None,
    on_failure: OnFailure | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Result]:
    """Train adapters together over one base and write each, with its curves, into its own folder.

    Each ends as if it had trained alone, bit for bit or within rounding, as the facts say. One member alone is trained
    by plain PEFT. When the members' work folders hold checkpoints of one step, training goes on from the latest such
    step as if never interrupted, whoever has made them.
    Under a strategy of several ranks every one of them calls this; the first one writes and sees rows and steps.

    Args:
        data: batches that all members share, or each one's own by its name.
        dispatch: "slice" or "batched" (``lora.pack``), for several members.
        until: pause at this optimizer step, of the same training; a later call continues it.
        on_row: sees a member's name and every point of its curves as it arises, earlier ones again after resuming.
        on_step: sees a member's name, its step, all steps, the step's loss and the pack's positions per second
            (without padding) a few times per second.
        on_failure: sees a member's name and why it failed, at the step where it did.
        should_stop: asked after every step, on every rank; one yes ends the training at this step.

    Returns:
        By name, facts about the training (steps, seconds, losses, number of trained parameters, pack; where several
        trained together also how each ``equals_alone``: "bit for bit" or "within rounding"), or of a paused one
        ``{"paused": {"step", "val_loss"}, ...}``, or why there is no adapter.

    Raises:
        Interrupted: ``should_stop`` said so; every member that has not failed has a checkpoint of that step.
    """
    together = data if isinstance(data, ConversationData) else DataTogether(data)
    together.setup()
    num_steps = together.num_steps(settings.max_epochs, settings.max_steps)
    works = {member.name: member.work for member in members}
    with on_one_base(base, members, dispatch) as (model, pack):
        sizes = {name: trainable_parameters(model, name) for name in works}  # of whole parameters, not yet in shards
        equality = _equality(pack, data)
        learners = [Learner(member.optim, member.seed, member.name) for member in members]
        module = AdapterTraining(model, learners, num_steps, pack)
        module.should_stop = should_stop or module.should_stop
        recorder = CurveRecorder(
            settings.log_every,
            settings.val_every,
            lambda: module.validation_loss(together.validation_batches()),
            on_row,
        )
        reports = [ReportSteps(on_step)] if on_step is not None else []
        keep = KeepCheckpoints(list(works.values()), settings.save_every, settings.save_keep)
        leaving = LeaveEarly(keep, recorder, until)
        callbacks = [StopAtNonFinite(on_failure), recorder, *reports, keep, leaving]
        trainer = make_trainer(module, settings, together.rules.ranks, works, callbacks)
        started = time.monotonic()
        run_trainer(trainer, module, together, checkpoint_of(list(works.values()), until))
        seconds = round(time.monotonic() - started, 3)
        if leaving.stopped is not None:
            raise Interrupted(leaving.stopped)
        results: dict[str, Result] = {}
        for member, learner in zip(members, learners, strict=True):
            try:
                outcome = _outcome(trainer, learner, recorder, leaving)
            except TrainingFailed as failure:
                results[member.name] = failure
                continue
            results[member.name] = outcome | {
                "train_seconds": round(seconds / len(members), 3),
                "trainable_parameters": sizes[member.name],
                "pack": {"size": len(members), "seconds": seconds, **equality},
            }
            if trainer.is_global_zero and leaving.paused is None:
                own = data if isinstance(data, ConversationData) else data[member.name]
                _write(member, module, recorder, own)
    return results


def _equality(pack: Pack | None, data: ConversationData | Mapping[str, ConversationData]) -> dict[str, str]:
    """How a pack's adapters equal those trained alone; nothing to say of one alone."""
    if pack is None:
        return {}
    # Batches of their own are padded to each other's lengths.
    equality = pack.equals_alone() if isinstance(data, ConversationData) else WITHIN_ROUNDING
    log.info("%d adapters train together; each equals the same one trained alone %s", len(pack.names), equality)
    return {"equals_alone": equality}


@contextmanager
def on_one_base(base: Base, members: Sequence[Member], dispatch: str) -> Iterator[tuple[PeftModel, Pack | None]]:
    """The base with the members' fresh adapters, and their pack where they are several."""
    with ExitStack() as stack:
        model = stack.enter_context(base.new_adapters({m.name: (m.lora, m.seed) for m in members}))
        if len(members) == 1:
            yield model, None
        else:
            yield model, stack.enter_context(closing(Pack(model, [m.name for m in members], dispatch)))


def _write(member: Member, module: AdapterTraining, recorder: CurveRecorder, data: ConversationData) -> None:
    """The finished adapter with its curves and what it was trained on."""
    save_adapter(module.model, member.folder, module.trained, member.name)
    write_jsonl(member.folder / "curves.jsonl", recorder.curves[member.name].rows)
    write_json(member.folder / "data.json", data.describe())


def _outcome(trainer: pl.Trainer, learner: Learner, recorder: CurveRecorder, leaving: LeaveEarly) -> dict[str, Any]:
    """How a learner's training has ended; TrainingFailed where that leaves no adapter."""
    if learner.failure is not None:
        raise learner.failure
    if leaving.paused is not None:
        step, losses = leaving.paused
        require_finite("validation", losses[learner.name], learner.optim.lr, step)
        return {"paused": {"step": step, "val_loss": losses[learner.name]}}
    curve, step = recorder.curves[learner.name], trainer.global_step
    final = {f"final_{split}_loss": curve.losses(split)[-1] for split in ("train", "val")}
    require_finite("validation", final["final_val_loss"], learner.optim.lr, step)  # what the last step left behind
    return {"steps": step, **final}


def run_trainer(
    trainer: pl.Trainer,
    module: AdapterTraining,
    data: pl.LightningDataModule | DataLoader,
    checkpoint: str | None = None,
) -> None:
    """Lightning's ``fit``, without its advice, its handling of signals, and the exception that ends it early."""
    with quiet_lightning(), own_signals(), suppress(Leave):
        if isinstance(data, pl.LightningDataModule):
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
        else:
            trainer.fit(module, data, ckpt_path=checkpoint)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's advice: on worker counts and logging, which do not fit data in memory maps, and on srun."""
    with warnings.catch_warnings():
        for module in ("pytorch_lightning", "lightning_fabric"):
            warnings.filterwarnings("ignore", category=UserWarning, module=module)
        yield


def make_trainer(
    module: AdapterTraining,
    settings: TrainerConfig,
    ranks: int,
    works: Mapping[str, Path],
    callbacks: Sequence[pl.Callback],
) -> pl.Trainer:
    """A Lightning trainer whose checkpoints hold the adapters only, each in its own folder of ``works``."""
    place, model = device(settings.accelerator), module.model
    trained = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    unused = module.pack is not None or needs_branch(name.removeprefix("base_model.model.") for name in trained)
    norm = module.learners[0].optim.max_grad_norm
    files = {name: (work, AdapterCheckpointIO(json.dumps(_config(model, name)))) for name, work in works.items()}
    with quiet_lightning():
        trainer = pl.Trainer(
            accelerator="gpu" if place.type == "cuda" else "cpu",
            devices=ranks,
            strategy=make_strategy(settings, ranks, place, norm, unused),
            max_epochs=settings.max_epochs,
            max_steps=settings.max_steps,
            reload_dataloaders_every_n_epochs=1,  # every epoch has its own plan of batches
            logger=False,
            enable_checkpointing=False,  # KeepCheckpoints does
            enable_progress_bar=settings.progress,
            enable_model_summary=False,
            callbacks=list(callbacks),
            # Processes are ours, also inside a Slurm job, whose own numbers Lightning would otherwise go by.
            plugins=[MembersCheckpointIO(files), LightningEnvironment()],
            use_distributed_sampler=False,
            default_root_dir=next(iter(works.values())),
        )
    # Signals are for ``should_stop``: Lightning's own handlers would broadcast from within, or requeue a Slurm job.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def _config(model: PeftModel, name: str) -> dict[str, Any]:
    config = model.peft_config[name].to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
