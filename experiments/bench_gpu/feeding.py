"""How a step's conversations come to the device: in passes or one by one, by workers and pinned memory or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities import move_data_to_device
from torch.utils.data import Dataset

from experiments.bench_gpu.inputs import Clip, NumberTokenizer, mixed_clips, random_samples
from experiments.bench_gpu.stages import Plan, Row
from experiments.bench_gpu.step import AdapterStep, OwnStep, Ways, adapter_on
from kimi_audio_ft.config.train import LoraConfig, OptimConfig
from kimi_audio_ft.cost.counted import Counts
from kimi_audio_ft.cost.machines import card
from kimi_audio_ft.cost.speed import PassTime
from kimi_audio_ft.data.batching import BatchPlan, EpochSteps
from kimi_audio_ft.data.datamodule import Collate, ResumableLoader
from kimi_audio_ft.data.dataset import Draw, Sample
from kimi_audio_ft.data.workers import AHEAD, workers_here
from kimi_audio_ft.model import KimiAudioForCausalLM

# Conversations that are drawn again and again; their features fit into memory.
_KEPT = 32


@dataclass(frozen=True)
class Feeding:
    """The product's own ways of feeding a GPU, each of which can be left.

    filled: passes instead of micro-batches. weighed: padding is, against the time of a further pass.
    """

    filled: bool = True
    weighed: bool = True
    workers: bool = True
    pinned: bool = True


SWITCHES = {
    "as on a GPU": Feeding(),
    "one pass, whatever its padding": Feeding(weighed=False),
    "every micro-batch a pass": Feeding(filled=False),
    "without workers": Feeding(workers=False),
    "without pinned memory": Feeding(pinned=False),
    "none of these": Feeding(filled=False, workers=False, pinned=False),
}


class Conversations(Dataset[Sample]):
    """Recordings of speech of mixed length; features are copied, as they are read from the store's files."""

    def __init__(self, clips: list[Clip], samples: list[Sample], dtype: torch.dtype) -> None:
        self.clips, self.samples = clips, samples
        for sample in samples:
            sample.features = [rows.to(dtype) for rows in sample.features or []]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, draw: Draw) -> Sample:
        sample = self.samples[draw.index % _KEPT]
        features = [rows.clone() for rows in sample.features or []]
        return replace(sample, features=features, weight=draw.weight, number=draw.number)


def measure_feeding(plan: Plan, model: KimiAudioForCausalLM) -> Iterator[Row]:
    """Steps of as many single conversations as the largest micro-batch has, from the loader to the optimizer."""
    config, size, kept = model.model.config, plan.micro_batches[-1], mixed_clips(_KEPT)
    largest = size * max(clip.positions for clip in kept)
    workers, ahead = (plan.workers, AHEAD) if plan.workers else workers_here(largest, 1)
    # Timed behind the steps that workers prepare before the first: whether they keep up is seen later.
    plan = replace(plan, clock=replace(plan.clock, warmup=workers * ahead + plan.clock.warmup))
    steps = plan.clock.warmup + plan.clock.repeats
    conversations = Conversations(
        [kept[index % _KEPT] for index in range(steps * size)], random_samples(config, kept), plan.dtype
    )
    gpu = plan.clock.device.type == "cuda"
    name = torch.cuda.get_device_name(plan.clock.device) if gpu else ""
    seconds = PassTime.of(Counts(config, LoraConfig(r=plan.rank), plan.dtype), card(name))
    for way, feeding in SWITCHES.items():
        loader = partial(_loader, plan, model, conversations, size, feeding, seconds, (workers, ahead))
        yield plan.row({"way": way, "conversations": size}, partial(_fed, plan, model, loader))


def _fed(plan: Plan, model: KimiAudioForCausalLM, loader: Callable[[], ResumableLoader]) -> Row:
    clock, useful, padded, passes = plan.clock, list[int](), list[int](), list[int]()
    batches = iter(loader())
    clock.reset_peak()
    with adapter_on(model, LoraConfig(r=plan.rank)) as adapted, OwnStep(adapted, Ways()).on() as loss:
        step = AdapterStep(adapted, OptimConfig(), loss)

        def compute() -> None:
            made = next(batches)
            masks = [one["inputs"]["attention_mask"] for one in made]
            useful.append(sum(int(mask.sum()) for mask in masks))
            padded.append(sum(mask.numel() for mask in masks))
            passes.append(len(made))
            float(step(*move_data_to_device(made, clock.device)))  # as a training reads its losses, once a step

        timing = clock.time(compute)
    positions = sum(useful[clock.warmup :]) / clock.repeats
    return {
        **asdict(timing),
        "passes": sum(passes) / len(passes),
        "padded": sum(padded) / sum(useful),
        "tokens_per_second": positions / timing.seconds,
        "peak_bytes": clock.peak_bytes(),
    }


def _loader(
    plan: Plan,
    model: KimiAudioForCausalLM,
    data: Conversations,
    size: int,
    feeding: Feeding,
    seconds: PassTime,
    prepared: tuple[int, int],
) -> ResumableLoader:
    lengths = np.array([clip.positions for clip in data.clips])
    batches = BatchPlan(lengths, lengths, 1, int(lengths.max()), size, bucket=False, average="sample", seed=0)
    most = size * int(lengths.max()) if feeding.filled else None
    collate = Collate(NumberTokenizer(model.model.config).pad_id, False, most, seconds if feeding.weighed else None)
    workers, ahead = prepared if feeding.workers else (0, 0)
    own: Any = data
    return ResumableLoader(
        own,
        EpochSteps(batches, 0),
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=ahead or None,
        pin_memory=feeding.pinned and plan.clock.device.type == "cuda",
    )
