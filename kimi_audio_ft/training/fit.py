"""Training of adapters with Lightning, alone or as a pack, resumable at any step."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments import LightningEnvironment
from peft import PeftModel
from torch import nn
from torch.utils.data import DataLoader

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import TrainerConfig
from kimi_audio_ft.data.datamodule import ConversationData
from kimi_audio_ft.data.together import DataTogether
from kimi_audio_ft.files import write_json, write_jsonl
from kimi_audio_ft.lora.adapter import PEFT_PREFIX, save_adapter, trainable_parameters
from kimi_audio_ft.lora.pack import WITHIN_ROUNDING, Pack
from kimi_audio_ft.lora.targets import needs_branch
from kimi_audio_ft.lora.update import own_updates
from kimi_audio_ft.runtime.devices import allow_more_threads, device, gpu_freed
from kimi_audio_ft.runtime.environment import environment
from kimi_audio_ft.runtime.reproducible import threads_change_nothing
from kimi_audio_ft.runtime.signals import Interrupted, own_signals
from kimi_audio_ft.training.adapters import AdapterSpec, AdapterState
from kimi_audio_ft.training.callbacks import CurveRecorder, OnStep, ReportSteps, Row
from kimi_audio_ft.training.checkpoint import KeepCheckpoints, PackCheckpointIO, checkpoint_of
from kimi_audio_ft.training.ending import Leave, TrainingFailed, require_finite
from kimi_audio_ft.training.filling import fill_passes
from kimi_audio_ft.training.module import AdapterTraining, OnFailure
from kimi_audio_ft.training.strategies import make_strategy

log = logging.getLogger(__name__)

Result = dict[str, Any] | TrainingFailed
OnRow = Callable[[str, Row], None]


@gpu_freed()
def fit_adapters(
    base: Base,
    specs: Sequence[AdapterSpec],
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
    """Train adapters concurrently over one base and write each, with its curves, into its own folder.

    Each result equals training alone, bit for bit or within rounding, as the returned facts say. A single adapter is
    trained by plain PEFT. Training resumes at the latest step with a checkpoint in all work folders, made in any pack.
    With several ranks every rank calls this; rank 0 writes and gets the callbacks.

    Args:
        data: batches shared by all adapters, or by adapter name.
        dispatch: "slice" or "batched" (``lora.pack``), for several adapters.
        until: pause at this optimizer step of the training; a later call continues it.
        on_row: called with an adapter's name and each new point of its curves; after a resume first with earlier ones.
        on_step: called a few times per second, see ``ReportSteps``.
        on_failure: called with an adapter's name and its failure, at the step where it occurs.
        should_stop: called after every step, on every rank; True on any rank ends the training at this step.

    Returns:
        By name, facts about the training (steps, seconds over all attempts, losses, number of trained parameters,
        environment, this attempt's pack, in a pack ``equals_alone``: "bit for bit" or "within rounding", and what
        ``fill_passes`` returns);
        ``{"paused": {"step", "val_loss"}, ...}`` of a paused one; the TrainingFailed of a failed one.

    Raises:
        Interrupted: on ``should_stop``; every adapter that has not failed has a checkpoint of that step.
    """
    joint = data if isinstance(data, ConversationData) else DataTogether(data)
    joint.setup()
    num_steps = joint.num_steps(settings.max_epochs, settings.max_steps)
    works = {spec.name: spec.work for spec in specs}
    with on_one_base(base, specs, dispatch) as (model, pack):
        sizes = {name: trainable_parameters(model, name) for name in works}  # before sharding
        equality = _equality(pack, data)
        allow_more_threads(_any_threads(model))
        states = [AdapterState(spec.optim, spec.seed, spec.name) for spec in specs]
        module = AdapterTraining(model, states, num_steps, pack, should_stop, on_failure)
        passes = fill_passes(base, module, specs, joint.parts)
        recorder = CurveRecorder(
            settings.log_every,
            settings.val_every,
            lambda: module.validation_loss(joint.validation_batches()),
            on_row,
        )
        reports = [ReportSteps(on_step)] if on_step is not None else []
        folders = list(works.values())
        keep = KeepCheckpoints(folders, settings.save_every, settings.save_keep, until, recorder.validated)
        trainer = make_trainer(module, settings, joint.rules.ranks, works, [recorder, *reports, keep])
        started = time.monotonic()
        run_trainer(trainer, module, joint, checkpoint_of(folders, until))
        seconds = round(time.monotonic() - started, 3)
        if keep.stopped is not None:
            raise Interrupted(keep.stopped)
        results: dict[str, Result] = {}
        for spec, state in zip(specs, states, strict=True):
            try:
                outcome = _outcome(state, keep.paused, recorder, trainer.global_step)
            except TrainingFailed as failure:
                results[spec.name] = failure
                continue
            results[spec.name] = outcome | {
                "train_seconds": round(recorder.curves[spec.name].seconds, 3),
                "trainable_parameters": sizes[spec.name],
                "environment": environment(base.settings, settings.accelerator),
                "pack": {"size": len(specs), "seconds": seconds, **equality},
                **passes,
            }
            if trainer.is_global_zero and keep.paused is None:
                save_adapter(model, spec.folder, module.strategy.trained, spec.name)
                write_jsonl(spec.folder / "curves.jsonl", recorder.curves[spec.name].rows)
                own = data if isinstance(data, ConversationData) else data[spec.name]
                write_json(spec.folder / "data.json", own.describe())
    return results


def _any_threads(model: PeftModel) -> bool:
    """Whether the number of threads may change in its training's course."""
    weights = [module.weight for module in model.modules() if type(module) is nn.Linear]
    trained = [value for value in model.parameters() if value.requires_grad]
    return threads_change_nothing(trained, [weight for weight in weights if not weight.requires_grad])


def _equality(pack: Pack | None, data: ConversationData | Mapping[str, ConversationData]) -> dict[str, str]:
    """Agreement of a pack's adapters with those trained alone; empty for a single one."""
    if pack is None:
        return {}
    # Separate batches are padded to a common length.
    equality = pack.equals_alone() if isinstance(data, ConversationData) else WITHIN_ROUNDING
    log.info("%d adapters train together; each equals the same one trained alone %s", len(pack.names), equality)
    return {"equals_alone": equality}


@contextmanager
def on_one_base(base: Base, specs: Sequence[AdapterSpec], dispatch: str) -> Iterator[tuple[PeftModel, Pack | None]]:
    """The base with fresh adapters, and their pack if there are several."""
    with base.new_adapters({spec.name: (spec.lora, spec.seed) for spec in specs}) as model:
        if len(specs) == 1:
            with nullcontext() if base.plain or base.sharded else own_updates(model, specs[0].name):
                yield model, None
            return
        with closing(Pack(model, [spec.name for spec in specs], dispatch)) as pack:
            yield model, pack


def _outcome(
    state: AdapterState, paused: tuple[int, dict[str, float]] | None, recorder: CurveRecorder, step: int
) -> dict[str, Any]:
    """Facts about an adapter's training, finished at this step or paused; raises its TrainingFailed."""
    if state.failure is not None:
        raise state.failure
    if paused is not None:
        step, losses = paused
        require_finite("validation", losses[state.name], state.optim.lr, step)
        return {"paused": {"step": step, "val_loss": losses[state.name]}}
    curve = recorder.curves[state.name]
    validated = next(row["loss"] for row in reversed(curve.rows) if row["split"] == "val")  # after the last step
    require_finite("validation", validated, state.optim.lr, step)
    return {"steps": step, "final_train_loss": curve.epoch_loss, "final_val_loss": validated}


def run_trainer(
    trainer: pl.Trainer,
    module: AdapterTraining,
    data: pl.LightningDataModule | DataLoader,
    checkpoint: str | None = None,
) -> None:
    """Lightning's ``fit`` without its advice and signal handlers; ``Leave`` ends it early."""
    with quiet_lightning(), own_signals(), suppress(Leave):
        trainer.fit(module, data, ckpt_path=checkpoint)
    if isinstance(data, pl.LightningDataModule):
        data.trainer = None  # data outlive the training, whose tensors they would keep alive


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Suppress Lightning's advice on worker counts, logging and srun, which does not apply here."""
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
    """A Lightning trainer whose checkpoints hold only the adapters, each in its own folder of ``works``."""
    target, model = device(settings.accelerator), module.model
    trained = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    unused = module.pack is not None or needs_branch(name.removeprefix(PEFT_PREFIX) for name in trained)
    norm = module.states[0].optim.max_grad_norm
    configs = {name: model.peft_config[name].to_dict() for name in works}
    members = {name: (work, json.dumps(configs[name], default=sorted)) for name, work in works.items()}  # sets
    with quiet_lightning():
        trainer = pl.Trainer(
            accelerator="gpu" if target.type == "cuda" else "cpu",
            devices=ranks,
            strategy=make_strategy(settings, ranks, target, norm, unused),
            max_epochs=settings.max_epochs,
            max_steps=settings.max_steps,
            reload_dataloaders_every_n_epochs=1,  # every epoch has its own batch plan
            logger=False,
            enable_checkpointing=False,  # KeepCheckpoints does
            enable_progress_bar=settings.progress,
            enable_model_summary=False,
            callbacks=list(callbacks),
            # We start the processes; inside a Slurm job Lightning would otherwise use the job's ranks.
            plugins=[PackCheckpointIO(members), LightningEnvironment()],
            use_distributed_sampler=False,
            default_root_dir=next(iter(works.values())),
        )
    # ``should_stop`` handles signals: Lightning's handlers would broadcast inside them, or requeue a Slurm job.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer
