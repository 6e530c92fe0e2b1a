"""How long a sweep takes on a machine, and how much of its memory and of the disk; ``experiments/gpu_model.md``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from kimi_audio_ft.config.launcher import LauncherConfig
from kimi_audio_ft.config.train import NATIVE, SHARDED, TrainConfig
from kimi_audio_ft.cost.counted import Counts
from kimi_audio_ft.cost.machines import Machine
from kimi_audio_ft.cost.speed import best_pack, decoding_seconds
from kimi_audio_ft.decoding.budget import AUTO_ON_CPU, predicted_budget
from kimi_audio_ft.decoding.generate import SETTINGS_AT_ONCE
from kimi_audio_ft.features.encode import DTYPES, encoder_size, online_bytes
from kimi_audio_ft.inputs import Inputs
from kimi_audio_ft.lora import solo
from kimi_audio_ft.model.checkpoint import read_config
from kimi_audio_ft.model.whisper import PIECE_ROWS
from kimi_audio_ft.runtime.devices import num_ranks
from kimi_audio_ft.store.signature import canonical
from kimi_audio_ft.sweep.dry_run.workload import Decoding, Training, Workload

# Most adapters of a pack whose size would be found by measuring.
_PACK = 8
# Seconds of a sweep beside its work: it composes jobs, starts processes that import their libraries, and writes the
# report; measured with the demo on two CPU cores. IDLE: of one that has nothing to make, which imports none. And of
# every trial: scores, records, its part of the report.
BESIDE, IDLE, PER_TRIAL = 14.0, 5.0, 0.2
# Longest answer of a batch, in mean answers.
_LONGEST = 1.5
# Bytes of an adapter's other files, and of a trial's files for every utterance and besides.
_ADAPTER_FILES, _PER_UTTERANCE, _TRIAL_FILES = 100_000, 1_500, 60_000
# Bytes per second at which a base is read from the disk.
_DISK = 1.5e9
# Whisper hears windows of 30 s, each ``PIECE_ROWS`` of its encoder; the speech tokenizer's encoder is half as deep.
_WINDOW, _ENCODERS = 30.0, 1.5


@dataclass(frozen=True)
class Prediction:
    """Seconds of a sweep on so many slots of a machine, memory of each, and bytes on the disk.

    training, decoding, encoding: of one slot after the other; seconds: of the sweep, work side by side. peak: bytes on
    a device; None: an adapter does not fit at all, and the times are without it. tokens_per_second: of a slot,
    while it trains. together: utterances of the largest batch that is decoded; None: the settings say it. devices: of
    a slot.
    """

    seconds: float
    training: float
    decoding: float
    encoding: float
    slots: int
    peak: int | None
    disk: int
    tokens_per_second: float | None
    together: int | None = None
    devices: int = 1

    @property
    def hours(self) -> float:
        """Device-hours of all slots together."""
        return self.slots * self.devices * self.seconds / 3600


@dataclass(frozen=True)
class Further:
    """What a sweeper does with a grid's trainings: the part of them that halving trains, and trainings of finalists."""

    part: float = 1.0
    trainings: int = 0


class Predictor:
    """Predicts on slots of a machine.

    measured: positions per second of a training here, where steps were timed. busy: how many times as long as its own
    work a process takes now, since others use the machine too.
    """

    def __init__(
        self,
        machine: Machine,
        slots: int,
        launcher: LauncherConfig,
        measured: float | None = None,
        busy: float = 1.0,
    ) -> None:
        self.machine, self.slots, self.launcher = machine, slots, launcher
        self.measured, self.busy = measured, busy
        self._counted: dict[str, Counts] = {}

    def predict(self, work: Workload, further: Further = Further()) -> Prediction:
        trained = [self._training(one) for one in work.trainings]
        times = further.part * sum(seconds for seconds, *_ in trained)
        if work.adapters:
            times *= 1 + further.trainings / work.adapters
        decoding = sum(map(self._decoding, work.decodings))
        encoding = self._encoding(work)
        chunks = max(1, (work.adapters or len(work.decodings)) + further.trainings)
        uneven = math.ceil(chunks / self.slots) * self.slots / chunks  # the last round may leave slots idle
        own = (BESIDE if work.adapters or work.transcripts else IDLE) + PER_TRIAL * work.trials
        beside = self.busy * own + self._loading(work)
        peaks = [peak for _, peak, *_ in trained]
        numbers = [counts.trained for counts in (self._counts(one.config) for one in work.trainings)]
        disk = work.feature_bytes + sum(
            one.adapters * (4 * count + _ADAPTER_FILES) for one, count in zip(work.trainings, numbers, strict=True)
        )
        utterances = max((one.utterances for one in work.decodings), default=0)
        return Prediction(
            beside + encoding + uneven * (times + decoding) / self.slots,
            times,
            decoding,
            encoding,
            self.slots,
            None if None in peaks else max((peak for peak in peaks if peak is not None), default=0),
            disk + work.trials * (_TRIAL_FILES + 2 * _PER_UTTERANCE * utterances),
            _mean([speed for *_, speed in trained]),
            max((self._together(one) for one in work.decodings if _has_open_batches(one)), default=None),
            max(map(self._devices, work.configs), default=1),
        )

    def _training(self, one: Training) -> tuple[float, int | None, float]:
        """Seconds of its adapters, one pack after the other; bytes at the peak; positions per second."""
        model, base = one.config.model, Inputs().base(one.config)
        ranks, sharded = self._devices(one.config), one.config.trainer.strategy in SHARDED
        recomputed = self._counts(one.config, checkpointing=True) if model.gradient_checkpointing else None
        always = model.gradient_checkpointing is True or sharded  # on shards no other passes are tried
        kept = self._counts(one.config) if not always or recomputed is None else recomputed
        sizes = (math.ceil(one.positions / ranks), math.ceil(one.answers / ranks))
        memory = {"ranks": ranks if sharded else 1, "beside": online_bytes(base.files, model.dtype, base.features)}
        time = best_pack(kept, recomputed, self.machine, self._most(one), *sizes, **memory)
        total = one.adapters * (one.steps * one.positions + one.validated / 3)
        # Whatever shards save, decoding needs the base whole (``Base.require_one_gpu_holds_it``).
        if time is None or (sharded and kept.base_bytes > self.machine.memory):
            return 0.0, None, 0.0
        if self.measured is not None:
            return total / self.measured, time.peak, self.measured
        speed = ranks * time.tokens_per_second
        return total / speed, time.peak, speed

    def _devices(self, config: TrainConfig) -> int:
        """Of a training; ranks on CPUs share their cores and memory."""
        return 1 if self.machine.waits else num_ranks(config.trainer)

    def _most(self, one: Training) -> int:
        """Most adapters that train together; one CPU thread is as busy with one adapter as with several."""
        if self.launcher.pack_size != "auto":
            return min(int(self.launcher.pack_size), one.adapters)
        alone = self.machine.waits or solo.why_solo(one.config.lora, one.config.model, one.config.trainer, [])
        return 1 if alone else min(_PACK, one.adapters)

    def _decoding(self, one: Decoding) -> float:
        batch, at_once = self._together(one), min(SETTINGS_AT_ONCE, one.transcripts)
        turns = math.ceil(one.utterances / batch) * math.ceil(one.transcripts / SETTINGS_AT_ONCE)
        prompt, tokens = math.ceil(one.prompt), math.ceil(_LONGEST * one.answer)
        counts = self._counts(one.config)
        return turns * decoding_seconds(counts, self.machine, batch, batch * at_once, prompt, tokens)

    def _together(self, one: Decoding) -> int:
        """Utterances of a batch."""
        setting = one.config.decoding
        if not _is_open(one):
            return int(setting.batch_size)
        if self.machine.waits:
            return AUTO_ON_CPU
        base = Inputs().base(one.config)
        budget = predicted_budget(base, setting, max(1, one.transcripts), self.machine.memory, one.utterances)
        return budget.utterances(math.ceil(one.prompt))

    def _encoding(self, work: Workload) -> float:
        """Of recordings that the store lacks, in windows of 30 s."""
        if not work.recordings or not work.configs:
            return 0.0
        numbers, _ = encoder_size(Inputs().base(work.configs[0]).files.whisper)
        windows = work.recording_seconds / _WINDOW + work.recordings / 2
        return 2 * _ENCODERS * numbers * PIECE_ROWS * windows / self.machine.flops

    def _loading(self, work: Workload) -> float:
        return max((self._counts(config).base_bytes / _DISK for config in work.configs), default=0.0)

    def _counts(self, config: TrainConfig, checkpointing: bool = False) -> Counts:
        model = config.model
        key = canonical([asdict(model), config.data.features, asdict(config.lora), checkpointing])
        if key not in self._counted:
            base, packed = Inputs().base(config), model.quantization is not None
            shape, dtype = read_config(base.files.root), DTYPES[model.dtype]
            self._counted[key] = Counts(shape, config.lora, dtype, checkpointing, packed, base.plain)
        return self._counted[key]


def _is_open(one: Decoding) -> bool:
    """Whether memory decides how many utterances are decoded together."""
    return one.config.decoding.batch_size == "auto"


def _has_open_batches(one: Decoding) -> bool:
    """Whether it has batches whose size memory decides; vLLM has no batches."""
    return _is_open(one) and one.config.decoding.engine == NATIVE


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
