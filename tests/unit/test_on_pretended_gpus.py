"""The product's functions on pretended GPUs: memory that runs out, errors of the cards, and what is left on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

from kimi_audio_ft.base import Base
from kimi_audio_ft.config.train import DecodingConfig, LoraConfig, ModelConfig, TrainConfig, TrainerConfig
from kimi_audio_ft.cost.counted import Counts
from kimi_audio_ft.cost.memory import SAFE, TrainingMemory
from kimi_audio_ft.decoding.budget import decoding_memory, together_here
from kimi_audio_ft.decoding.request import DecodingRequest
from kimi_audio_ft.decoding.transcripts import decode_all
from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.features.encode import encoders_bytes
from kimi_audio_ft.files import write_jsonl
from kimi_audio_ft.lora.adapter import ONE
from kimi_audio_ft.model.checkpoint import read_config
from kimi_audio_ft.paths import TINY_MODEL
from kimi_audio_ft.runtime.devices import device, free_memory, num_ranks
from kimi_audio_ft.runtime.signals import Interrupted
from kimi_audio_ft.serve.batch_queue import pieces_together
from kimi_audio_ft.sweep.cluster.local import device_slots
from kimi_audio_ft.sweep.events import Event, Failed, Ready, Split
from kimi_audio_ft.sweep.pack_size import find_pack_size
from kimi_audio_ft.sweep.plan import Task, Unit
from kimi_audio_ft.sweep.worker import make_units
from kimi_audio_ft.training.adapters import AdapterSpec, AdapterState
from kimi_audio_ft.training.filling import fill_passes
from kimi_audio_ft.training.fit import fit_adapters, on_one_base
from kimi_audio_ft.training.module import AdapterTraining
from kimi_audio_ft.trial import Trial
from tests.pretend_gpu import CUBLAS_MEMORY, ILLEGAL_ACCESS, MB, PretendedGPUs, WrongDevice
from tests.unit.conftest import answer, audio, line

pytestmark = pytest.mark.slow

Config = Callable[..., TrainConfig]
RANKS = (2, 4, 8)


def unit_of(config: TrainConfig) -> Unit:
    return Unit(Trial(config).training_signature, [config])


def make(task: Task) -> list[Event]:
    events: list[Event] = []
    make_units(task, events.append, lambda: False)
    return events


def forget(base: Base) -> None:
    """The next test's base is on another pretended machine."""
    base.release()
    free_memory()


@pytest.fixture
def config(trial_config: Config) -> Config:
    """A training of two steps on a GPU."""

    def make_config(rank: int = 2, **changes: Any) -> TrainConfig:
        trainer = {"accelerator": "gpu", "max_steps": 2} | changes.pop("trainer", {})
        return trial_config(lora={"r": rank}, data={"batch_size": 4}, trainer=trainer, **changes)

    return make_config


def in_given_passes(config: TrainConfig) -> TrainConfig:
    """Without the trial by which a card's passes find their size, and which runs out of memory in peace."""
    return replace(config, data=replace(config.data, pass_positions=10_000))


def use_two_cards() -> None:
    here, there = torch.randn(3, 4), torch.randn(3, 4, device="cuda")
    wrong: list[Callable[[], Any]] = [
        lambda: here @ there.t(),
        lambda: torch.cat([here, there]),
        lambda: here.add_(there),
        lambda: there.to("cuda:1") + there,
        lambda: there.bernoulli_(0.5, generator=torch.Generator()),
    ]
    for refused in wrong:
        with pytest.raises(WrongDevice):
            refused()
    with pytest.raises(torch.AcceleratorError, match="invalid device ordinal"):
        here.to("cuda:2")
    with pytest.raises(torch.OutOfMemoryError):
        torch.zeros(MB, device="cuda")
    view = there.t()[1:].detach()
    assert view.is_cuda and (view + 1).device == torch.device("cuda:0") and not view.cpu().is_cuda
    layer = torch.nn.Linear(4, 2).cuda()
    torch.nn.functional.cross_entropy(layer(there), torch.tensor([0, 1, 1], device="cuda")).backward()
    assert layer.weight.grad is not None and layer.weight.grad.is_cuda


def test_cards_refuse_what_cuda_refuses_and_count_what_lives() -> None:
    with PretendedGPUs(2, memory=MB) as gpus:
        use_two_cards()
        free_memory()
        assert gpus.live[0] == gpus.live[1] == 0 < gpus.peak[1] < gpus.peak[0]
    assert not torch.cuda.is_available() and not torch.zeros(1).is_cuda


@pytest.mark.slow
def test_a_pack_that_does_not_fit_into_memory_is_trained_in_halves(config: Config) -> None:
    units = [unit_of(config(rank)) for rank in RANKS[:2]]
    with PretendedGPUs(memory=10 * MB):  # passes of one conversation of each take 8.6 and 11.5
        split = make(Task(0, units, pack_size=2))[-1]
        assert isinstance(split, Split) and split.units == [unit.key for unit in units] and split.memory
        forget(Trial(units[0].jobs[0]).base)  # as in another process
        assert make(Task(0, units[:1], pack_size=1))[-1] == Ready(units[0].key)
        forget(Trial(units[0].jobs[0]).base)


@pytest.mark.slow
@pytest.mark.parametrize("pack_size", [2, 0])
def test_a_process_whose_card_breaks_leaves_its_units_to_others(config: Config, pack_size: int) -> None:
    """In a training, and in the search for the pack's size: nothing is tried again on the broken card."""
    units = [unit_of(config(rank)) for rank in RANKS]
    with PretendedGPUs(fault={"message": ILLEGAL_ACCESS, "after": 2000, "sticky": True}):
        events = make(Task(0, units, pack_size=pack_size))
        forget(Trial(units[0].jobs[0]).base)
    split = events[-1]
    assert isinstance(split, Split) and ILLEGAL_ACCESS in split.reason and not split.memory
    assert len(split.units) == (pack_size or 3) and not any(isinstance(event, Failed) for event in events)


@pytest.mark.slow
def test_cublas_without_memory_is_a_pack_without_memory(config: Config) -> None:
    units = [unit_of(in_given_passes(config(rank))) for rank in RANKS[:2]]
    with PretendedGPUs(fault={"message": CUBLAS_MEMORY, "after": 2000}):
        split = make(Task(0, units, pack_size=2))[-1]
        forget(Trial(units[0].jobs[0]).base)
    assert isinstance(split, Split) and split.memory and len(split.units) == 2


def fitted(trials: Sequence[Trial], folder: Path) -> None:
    specs = [
        AdapterSpec(f"a{n}", trial.config.lora, trial.config.optim, 1, folder / f"a{n}", folder / f"w{n}")
        for n, trial in enumerate(trials)
    ]
    fit_adapters(trials[0].base, specs, trials[0].data, trials[0].config.trainer)


@pytest.mark.slow
def test_a_pack_leaves_nothing_on_its_card_and_a_probe_measures_what_it_takes(config: Config, tmp_path: Path) -> None:
    trials = [Trial(config(rank, trainer={"max_epochs": 1, "max_steps": -1})) for rank in RANKS[:2]]
    with PretendedGPUs() as gpus:
        trials[0].base.load()
        base_alone = gpus.live[0]
        fitted(trials, tmp_path)
        assert gpus.live[0] == base_alone
        took = gpus.peak[0]
        _, facts = find_pack_size(trials)
        assert gpus.live[0] == base_alone
        assert facts["sizes"][-1]["peak_bytes"] == pytest.approx(took, rel=0.01)
        forget(trials[0].base)


@pytest.mark.slow
def test_a_batch_of_decoding_that_does_not_fit_is_halved(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trial = Trial(config())
    request = DecodingRequest(DecodingConfig(max_new_tokens=4, batch_size=8), 1)
    decoded = []
    with PretendedGPUs() as gpus:
        trial.base.load()
        base_alone = gpus.live[0]
        for store in ("all", "little"):
            monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(tmp_path / store))
            decoded += [one.hypotheses for one in decode_all(trial.evaluation, [request], None)]
            assert gpus.live[0] == base_alone
            gpus.memory = base_alone + 0.7 * (gpus.peak[0] - base_alone)
        forget(trial.base)
    assert decoded[0] == decoded[1]


@pytest.mark.slow
def test_decoding_fills_the_memory_and_needs_what_the_formula_tells(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In two turns, the second of which needs the prompts' keys and values again; the texts are a CPU's."""
    trial, done = Trial(config()), list[int]()
    hot = DecodingConfig(text_temperature=8.0, text_top_k=0, max_new_tokens=3, repeats=9)
    need, prompts = decoding_memory(trial.base, adapted=False), trial.evaluation.conversations
    longest = int(prompts.lengths(trial.base.tokenizer, for_generation=True)[:, 0].max())
    each = need.utterance(longest, 3, together=8, further=True)
    with PretendedGPUs(memory=round((need.fixed + 4.5 * each) / SAFE)) as gpus:
        request = DecodingRequest(replace(hot, batch_size="auto"), 1)
        wanted = (trial.evaluation, [request], None, False, lambda count, _: done.append(count))
        with pytest.raises(Interrupted):
            decode_all(*wanted, lambda: bool(done))
        [filled] = decode_all(*wanted)
        peak = gpus.peak[0]
        assert filled.hypotheses
        forget(trial.base)
    assert done == [36, 72, 81]
    assert filled.environment is not None and filled.environment["batches"] == {"number": 3, "largest": 4}
    assert 2 * each < peak - need.fixed < 4 * each
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(tmp_path / "cpu"))
    on_cpu = Trial(config(trainer={"accelerator": "cpu"})).evaluation
    [eight] = decode_all(on_cpu, [DecodingRequest(hot, 1)], None)
    assert eight.hypotheses == filled.hypotheses


def test_a_server_leaves_room_for_its_encoders_and_the_most_repeats() -> None:
    base, once = Base(ModelConfig(dtype="float32"), "cached"), DecodingConfig(batch_size="auto")
    often, need = replace(once, repeats=4), decoding_memory(base, adapted=True)
    beside, each = encoders_bytes(base.files, "float32", "cached"), need.utterance(1024, 1024, together=4)
    with PretendedGPUs(memory=round((need.fixed + beside + 4.5 * each) / SAFE)):
        assert pieces_together(base, "auto", [once, often]) == 4, "a request's temperature samples either"
        assert pieces_together(base, "auto", [once]) == pieces_together(base, "auto", [once], words=512) == 8
        assert pieces_together(base, "auto", [once], words=2048) < 8, "a model's own hot words"
        assert together_here(base, often, 1024, 64) == 8, "greedy"
    with PretendedGPUs(memory=round((need.fixed + 4.5 * each) / SAFE)):
        assert pieces_together(base, "auto", [once, often]) < 4


def test_ranks_of_a_sharded_base_fill_their_passes_alike(config: Config) -> None:
    sharded = config(trainer={"strategy": "fsdp", "devices": 2})
    spec = AdapterSpec(ONE, sharded.lora, sharded.optim, 1, Path(), Path())

    def filled(rank: int, positions: int | str = "auto") -> int:
        trial = Trial(replace(sharded, data=replace(sharded.data, pass_positions=positions)), rank=rank)
        trial.base.sharded = True
        trial.data.setup()
        with on_one_base(trial.base, [spec], "slice") as (model, _):
            module = AdapterTraining(model, [AdapterState(spec.optim, 1)], 1)
            fill_passes(trial.base, module, [spec], [trial.data])
        assert trial.data.passes_together and trial.data.pass_positions
        return trial.data.pass_positions

    with PretendedGPUs(2, memory=round(1.2e9)):  # CUDA's own take most of it
        longest = filled(0, positions=1)
        assert longest < filled(0, positions=longest + 1) == longest + 1 < filled(0) == filled(1) < 1000 * longest


def test_activations_are_kept_where_that_is_faster(trial_config: Config, tmp_path: Path) -> None:
    """One recording of 400 codes among short ones, with which it would not fit into one pass."""
    manifest = tmp_path / "train.jsonl"
    codes = [[1467 + place % 256 for place in range(400 if number == 7 else 5)] for number in range(32)]
    turns = [[audio("", audio_tokens=some), answer("好")] for some in codes]
    write_jsonl(manifest, [line(str(number), *turn) for number, turn in enumerate(turns)])
    need = TrainingMemory.of(Counts(read_config(TINY_MODEL), LoraConfig(r=2), torch.bfloat16))

    def filled(asked: int | str = "auto", **model: Any) -> Any:
        """With memory for 600 positions whose activations are kept by fused layers."""
        data = {"train_manifest": str(manifest), "batch_size": 8, "pass_positions": asked}
        model = {"dtype": "bfloat16", "gradient_checkpointing": "auto"} | model
        trial = Trial(trial_config(data=data, trainer={"accelerator": "gpu", "accumulate": 1}, model=model))
        spec = AdapterSpec(ONE, trial.config.lora, trial.config.optim, 1, Path(), Path())
        with PretendedGPUs():
            trial.data.setup()
        each = need.position + need.answer * (trial.data.plan.supervised / trial.data.plan.lengths).max()
        with PretendedGPUs(memory=round((need.fixed + 600 * each) / SAFE)):
            with on_one_base(trial.base, [spec], "slice") as (adapted, _):
                module = AdapterTraining(adapted, [AdapterState(spec.optim, 1)], 1)
                facts = fill_passes(trial.base, module, [spec], [trial.data])
            forget(trial.base)
        return facts["passes"]

    found = filled()
    assert found["positions"] < 650 and not found["recomputed"]
    assert filled(550, kernels="plain")["recomputed"], "plain layers keep more of each position"
    assert filled(550) == {"positions": 550, "recomputed": False}


def test_passes_of_adapters_with_data_of_their_own_become_smaller_until_they_fit(
    trial_config: Config, tmp_path: Path
) -> None:
    """Of many short recordings and of few long ones: joined, they are twice as large as each may be."""

    def trial_of(count: int, codes: int) -> Trial:
        manifest = tmp_path / f"{count}.jsonl"
        sound = audio("", audio_tokens=[1467 + place for place in range(codes)])
        write_jsonl(manifest, [line(f"{count}.{number}", sound, answer("好")) for number in range(count)])
        data = {"train_manifest": str(manifest), "batch_size": count}
        return Trial(trial_config(data=data, trainer={"accelerator": "gpu", "accumulate": 1}))

    trials = [trial_of(24, 5), trial_of(4, 80)]
    base, config = trials[0].base, trials[0].config
    specs = [AdapterSpec(name, config.lora, config.optim, 1, Path(), Path()) for name in ("x", "y")]
    with PretendedGPUs(memory=70 * MB, fault={"message": "endless", "after": 20_000}):
        data = [trial.data for trial in trials]
        for one in data:
            one.setup()
        with on_one_base(base, specs, "slice") as (model, pack):
            module = AdapterTraining(model, [AdapterState(one.optim, 1, one.name) for one in specs], 1, pack)
            fill_passes(base, module, specs, data)
        forget(base)
    [found] = {one.pass_positions for one in data}
    longest = max(int(one.plan.lengths.max()) for one in data)
    assert found is not None and longest < found < 2 * longest, "all four take four times as many"


def test_an_adapter_that_cannot_be_put_on_leaves_a_clean_base() -> None:
    base = Base(ModelConfig(), "none")
    with PretendedGPUs() as gpus:
        base.load()
        gpus.memory = gpus.live[0] + 0.5 * MB
        with pytest.raises(torch.OutOfMemoryError), base.new_adapters({ONE: (LoraConfig(r=64), 1)}):
            pass
        gpus.memory = 100 * MB
        assert not any(isinstance(module, LoraLayer) for module in base.load().modules())
        with base.new_adapters({ONE: (LoraConfig(), 1)}) as adapted:
            assert next(adapted.parameters()).is_cuda
        forget(base)


def test_a_base_that_was_moved_is_read_again() -> None:
    base, kernels = Base(ModelConfig(), "none"), torch.backends.cuda
    kernels.enable_cudnn_sdp(True)
    with PretendedGPUs():
        base.load().cpu()
        assert all(parameter.is_cuda for parameter in base.load().parameters())
        assert not kernels.cudnn_sdp_enabled() and kernels.flash_sdp_enabled()
        forget(base)


def test_a_rank_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with PretendedGPUs(2):
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert device() == torch.device("cuda", 1)
        monkeypatch.setenv("LOCAL_RANK", "2")
        with pytest.raises(UserError, match=r"LOCAL_RANK=2: .*PyTorch sees 2\. Start no more .*unset LOCAL_RANK"):
            device()
        assert device("cpu").type == "cpu"


def test_gpus_that_the_driver_does_not_show_get_no_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with PretendedGPUs(2):
        slots = device_slots(1, threads=0, parallel=None)
        assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "1"]
        assert num_ranks(TrainerConfig(strategy="ddp")) == 2
        for slot in slots:
            for name, value in slot.items():
                monkeypatch.setenv(name, value)
            assert device() == torch.device("cuda", 0)


def test_a_sharded_training_that_no_card_could_decode_is_refused_before_it_starts(config: Config) -> None:
    sharded = config(trainer={"strategy": "fsdp", "devices": 2})
    with PretendedGPUs(2, memory=4 * MB):
        with pytest.raises(ConfigError, match=r"trainer\.strategy='fsdp': .*decoding needs it whole: .*has 0\.004 GB"):
            Trial(sharded).adapter()
        [failed, *_] = [event for event in make(Task(0, [unit_of(sharded)])) if isinstance(event, Failed)]
        assert failed.failure.user and "trainer=ddp" in failed.failure.message
        Trial(replace(sharded)).base.release()
