"""Several processes train what one process trains, under every strategy, on two CPU ranks (gloo).

Each run starts two Python processes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.errors import ChangedError, UserError
from kimi_audio_ft.files import read_jsonl, write_jsonl
from kimi_audio_ft.model import KimiAudioForCausalLM
from kimi_audio_ft.paths import TINY_MODEL
from kimi_audio_ft.runtime.workers import run_workers
from kimi_audio_ft.training.ending import TrainingFailed
from kimi_audio_ft.trial import Trial, fit_in_workers
from tests.sameness import assert_within_rounding
from tests.unit.conftest import answer, audio, line

Config = Callable[..., TrainConfig]
pytestmark = pytest.mark.slow

# As conf/trainer/deepspeed_zero3.yaml, which tests/integration uses whole.
ZERO = {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False, "zero_optimization": {"stage": 3}}
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"strategy": "ddp"},
    "fsdp": {"strategy": "fsdp"},
    "deepspeed_zero3": {"strategy": "deepspeed_zero3", "deepspeed": ZERO},
}
# What else is different about a strategy's run, so that three runs cover more: all must equal one plain process.
BESIDES: dict[str, dict[str, Any]] = {
    "ddp": {"lora": {"target_modules": "decoder_and_branch"}},  # parameters without a gradient
    "fsdp": {"model": {"gradient_checkpointing": True}},
    "deepspeed_zero3": {"model": {"gradient_checkpointing": True}, "optim": {"loss_average": "token"}},
}


@pytest.fixture(scope="session")
def deepspeed_there() -> None:
    """Skips where DeepSpeed is not installed, without importing it here."""
    if find_spec("deepspeed") is None:
        pytest.skip("ZeRO-3 needs deepspeed (the extra `gpu`)")


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> str:
    if request.param == "deepspeed_zero3":
        request.getfixturevalue("deepspeed_there")
    return request.param


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def rows(folder: Path) -> list[dict[str, Any]]:
    return read_jsonl(folder / "curves.jsonl")


def assert_same_training(folder: Path, other: Path) -> None:
    """Equal up to the order of sums over ranks."""
    assert_within_rounding(folder, other)
    assert {value.dtype for value in tensors(folder).values()} == {torch.float32}


@pytest.fixture
def fill_passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Trains with a GPU's masks, here and on ranks, whose passes get so many positions at most once it is called."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import rank_tasks

    positions: list[int] = []

    def run_as_on_a_gpu(task: Any, arguments: tuple[Any, ...], *others: Any, **options: Any) -> None:
        given = (positions[-1] if positions else None, task, *arguments)
        run_workers(rank_tasks.as_on_a_gpu, given, *others, **options)

    rank_tasks.mask_by_sample(monkeypatch.setattr)
    monkeypatch.setattr("kimi_audio_ft.trial.run_workers", run_as_on_a_gpu)
    return positions.append


def test_two_ranks_equal_one_and_resume(
    trial_config: Config, strategy: str, fill_passes: Callable[[int], None], tmp_path: Path
) -> None:
    """The curve and the adapter of one process with the same global batch, from the start and from a checkpoint.

    3 conversations a micro-batch, 4 micro-batches a step: each epoch has a short last step, which does not go round.
    A checkpoint of one process resumes on two ranks, which fill their passes, and the other way round.
    """

    def config(**trainer: Any) -> TrainConfig:
        more = {group: dict(fields) for group, fields in BESIDES[strategy].items()}
        lora = {"r": 2, "lora_dropout": 0.1} | more.pop("lora", {})
        return trial_config(
            data={"batch_size": 3}, lora=lora, trainer={"save_every": 2, "save_keep": 9} | trainer, **more
        )

    one, two = config(accumulate=4), config(accumulate=2, devices=2, **STRATEGIES[strategy])
    assert Trial(one).training_signature == Trial(two).training_signature
    single = Trial(one)
    alone = single.fit(tmp_path / "one", tmp_path / "work_one", None)
    seen: list[dict[str, Any]] = []
    together = fit_in_workers(Trial(two), tmp_path / "two", tmp_path / "work_two", seen.append)
    assert alone["steps"] == together["steps"] == 4
    assert alone["trainable_parameters"] == together["trainable_parameters"]
    assert_same_training(tmp_path / "two", tmp_path / "one")
    assert seen == rows(tmp_path / "two"), "the rows reach the parent"

    (tmp_path / "resumed_work").mkdir()
    shutil.copytree(tmp_path / "work_one" / "step=00000002", tmp_path / "resumed_work" / "step=00000002")
    fill_passes(most := 2 * int(single.data.plan.lengths.max()))
    resumed = fit_in_workers(Trial(two), tmp_path / "resumed", tmp_path / "resumed_work", None)
    assert (together["passes"], resumed["passes"]) == (None, most)
    assert_same_training(tmp_path / "resumed", tmp_path / "one")
    (tmp_path / "back_work").mkdir()
    shutil.copytree(tmp_path / "work_two" / "step=00000002", tmp_path / "back_work" / "step=00000002")
    Trial(one).fit(tmp_path / "back", tmp_path / "back_work", None)
    assert_same_training(tmp_path / "back", tmp_path / "one")
    _plain_peft_reads(tmp_path / "two")


def _plain_peft_reads(folder: Path) -> None:
    model = KimiAudioForCausalLM.from_pretrained(TINY_MODEL, audio_branch=True)
    adapted = peft.PeftModel.from_pretrained(model, str(folder))
    loaded = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
    saved = tensors(folder)
    assert loaded.keys() == saved.keys() and all(torch.equal(loaded[name], saved[name]) for name in saved)


@pytest.fixture
def with_features(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The task ``rank_tasks.fit_all_with_features``, importable in spawned processes."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import rank_tasks

    return rank_tasks.fit_all_with_features


@pytest.fixture
def long_manifest(tmp_path: Path) -> str:
    """Four conversations of 402 codes each."""
    path = tmp_path / "long.jsonl"
    codes = [1467 + index % 256 for index in range(402)]
    write_jsonl(path, [line(str(index), audio("", audio_tokens=codes), answer("你好")) for index in range(4)])
    return str(path)


@pytest.mark.parametrize("ranks", [1, 2])
def test_two_errors_of_the_published_run(
    trial_config: Config, with_features: Any, long_manifest: str, deepspeed_there: None, tmp_path: Path, ranks: int
) -> None:
    """In one process and under ZeRO-3: float32 features meet bf16 weights, which must work; then a recording of 402
    codes meets the 375 feature rows of its first 30 s, which must be refused."""
    trainer = {"devices": ranks} | (STRATEGIES["deepspeed_zero3"] if ranks == 2 else {})
    works = trial_config(
        model={"dtype": "bfloat16"},
        lora={"target_modules": "decoder_and_adaptor"},
        trainer=trainer | {"accumulate": 2 // ranks, "max_steps": 2},
    )
    data = {"train_manifest": long_manifest, "eval_manifest": long_manifest, "features": "none"}
    refused = trial_config(data=data, trainer=trainer | {"accumulate": 1, "max_steps": 1})
    trainings = [(works, tmp_path / "works", "float32", 0), (refused, tmp_path / "refused", "float32", 375)]
    facts: list[dict[str, Any]] = []
    with pytest.raises(UserError, match=r"shape \(375, \d+\) for an audio of 402 codes"):
        if ranks == 1:
            with_features(0, facts.append, trainings)
        else:
            run_workers(with_features, (trainings,), ranks, lambda rank, value: facts.append(value))
    assert not (tmp_path / "refused" / "adapter_model.safetensors").exists()
    assert [fact["steps"] for fact in facts] == [2]
    assert facts[0]["base"] == ["torch.bfloat16"] and facts[0]["adapter"] == ["torch.float32"]
    saved = tensors(tmp_path / "works")
    assert {value.dtype for value in saved.values()} == {torch.float32}, "adapters stay float32 over a bf16 base"
    moved = [name for name, value in saved.items() if ".vq_adaptor." in name and "lora_B" in name and value.any()]
    assert len(moved) == 2, "the features reached the adaptor"


def test_a_loss_that_is_not_finite_ends_all_ranks(trial_config: Config, tmp_path: Path) -> None:
    config = trial_config(optim={"lr": 1e30}, trainer={"strategy": "ddp", "devices": 2, "accumulate": 1})
    with pytest.raises(TrainingFailed, match=r"^optim\.lr=1e\+30: the (training|validation) loss is (nan|inf)"):
        fit_in_workers(Trial(config), tmp_path / "adapter", tmp_path / "work", None)


def test_ranks_that_find_other_data_than_was_planned_train_nothing(
    trial_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints of theirs would be gone on from if they were killed before their end, and the data then put back."""
    manifest = tmp_path / "train.jsonl"
    lines = Path(trial_config().data.train_manifest).read_text(encoding="utf-8").splitlines(keepends=True)
    manifest.write_text("".join(lines), encoding="utf-8")

    def edited_meanwhile(*arguments: Any, **options: Any) -> None:
        manifest.write_text("".join(lines[:12]), encoding="utf-8")
        run_workers(*arguments, **options)

    monkeypatch.setattr("kimi_audio_ft.trial.run_workers", edited_meanwhile)
    trainer = {"strategy": "ddp", "devices": 2, "save_every": 1}
    trial = Trial(trial_config(data={"train_manifest": str(manifest)}, trainer=trainer))
    with pytest.raises(ChangedError, match=r"train\.jsonl: changed while the trial ran"):
        fit_in_workers(trial, tmp_path / "adapter", tmp_path / "work", None)
    assert not (tmp_path / "work").exists()
