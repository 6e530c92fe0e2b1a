"""``hydra/sweeper=halving`` and ``finalists`` as Hydra composes and runs them, over a launcher that trains nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException, InstantiationException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from kimi_audio_ft.cli import explain
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.errors import ConfigError, UserError
from kimi_audio_ft.paths import config_dir
from kimi_audio_ft.store.usage import is_alive
from kimi_audio_ft.sweep.halving import RungResult
from kimi_audio_ft.sweep.view.records import LiveRecords


class Ranks:
    """A launcher whose adapters are as good as their rank is high; a launched job of rank ``fails`` fails."""

    def __init__(self, fails: int = 0) -> None:
        self.fails = fails
        self.launched: list[str] = []

    def record_all(self, jobs: Sequence[Sequence[str]]) -> LiveRecords:
        return LiveRecords("sweep", jobs=jobs)

    def num_steps(self, job_overrides: Sequence[Sequence[str]]) -> list[int]:
        return [8 for _ in job_overrides]

    def train_until(self, job_overrides: Sequence[Sequence[str]], until: int, metric: str) -> list[RungResult]:
        signatures = ["".join(item for item in job if not item.startswith("decoding")) for job in job_overrides]
        ranks = map(self._rank, job_overrides)
        return [RungResult(name, until, 1 / r, None, False) for name, r in zip(signatures, ranks, strict=True)]

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        assert initial_job_idx == 0
        self.launched += [" ".join(job) for job in job_overrides]
        returns = []
        for job in job_overrides:
            failed = self._rank(job) == self.fails
            returned = JobReturn(overrides=job, status=JobStatus.FAILED if failed else JobStatus.COMPLETED)
            returned.return_value = ValueError("broke") if failed else 0.5
            returns.append(returned)
        return returns

    @staticmethod
    def _rank(job: Sequence[str]) -> int:
        return int(next(item for item in job if item.startswith("lora.r=")).partition("=")[2])


@pytest.fixture
def sweeper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """The sweeper that Hydra makes of overrides."""
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)

    def make(*overrides: str, name: str = "halving") -> Any:
        GlobalHydra.instance().clear()
        with initialize_config_dir(config_dir(), version_base="1.3"):
            given = [f"hydra/sweeper={name}", f"hydra.sweep.dir={tmp_path}", *overrides]
            config: DictConfig = compose("train", overrides=given, return_hydra_config=True)
            with open_dict(config):
                config.hydra.runtime.output_dir = "."
            loader = GlobalHydra.instance().config_loader()
            context = HydraContext(loader, callbacks=None)  # type: ignore[arg-type]
            return Plugins.instance().instantiate_sweeper(
                config=config, hydra_context=context, task_function=lambda config: None
            )

    return make


@pytest.fixture
def run(sweeper: Callable[..., Any], tmp_path: Path) -> Callable[..., tuple[Ranks, dict[str, Any]]]:
    """Runs a sweep over a launcher; returns it and halving.json."""

    def make(options: Sequence[str], *arguments: str, fails: int = 0) -> tuple[Ranks, dict[str, Any]]:
        made, launcher = sweeper(*options), Ranks(fails)
        made.launcher = launcher
        made.sweep(list(arguments))
        return launcher, json.loads((tmp_path / "halving.json").read_text(encoding="utf-8"))

    return make


def test_hydra_finds_the_sweeper() -> None:
    assert "HalvingSweeper" in [found.__name__ for found in Plugins.instance().discover(Sweeper)]


def test_defaults_are_as_documented(sweeper: Callable[..., Any]) -> None:
    settings = sweeper().settings
    assert settings.rungs == [0.25, 0.5] and settings.reduction_factor == 2.0 and settings.metric == "cer"


def test_all_decodings_of_the_survivors_run_in_the_grids_order(run: Callable[..., Any]) -> None:
    launcher, record = run([], "lora.r=8,2,16,4", "decoding.text_temperature=0.0,0.7", "optim.lr=0.001")
    at = "optim.lr=0.001"
    assert launcher.launched == [f"lora.r=16 decoding.text_temperature={t} {at}" for t in ("0.0", "0.7")]
    assert record["jobs_in_grid"] == 8
    assert {one["name"]: (one["decision"], one["step"]) for one in record["candidates"]} == {
        "r=8": ("stopped", 4),
        "r=2": ("stopped", 2),
        "r=16": ("continued", 4),
        "r=4": ("stopped", 2),
    }


def test_study_with_params_and_options(run: Callable[..., Any]) -> None:
    """24 adapters at 4 temperatures: 12 and 6 of them continue, and ties with the last one."""
    launcher, record = run(["+experiments=halving"])
    assert record["jobs_in_grid"] == 96 and len(record["candidates"]) == 24
    assert record["rungs"] == [0.25, 0.5] and record["reduction_factor"] == 2.0
    assert [len(one["history"]) for one in record["candidates"]].count(2) == 16  # 8 adapters have rank 8
    assert len(launcher.launched) == 4 * 8 and all("lora.r=32" in job for job in launcher.launched)


def test_command_line_goes_before_the_study(run: Callable[..., Any]) -> None:
    options = ["+experiments=halving", "hydra.sweeper.rungs=[3]", "hydra.sweeper.seed=3"]
    launcher, record = run([*options, "hydra.sweeper.max_candidates=3"], "lora.r=7")
    assert record["rungs"] == [3] and record["max_candidates"] == 3
    assert len(record["candidates"]) == 3
    assert all("lora.r=7" in job for job in launcher.launched)


def test_a_sweep_is_registered_as_running_in_its_rungs(sweeper: Callable[..., Any], tmp_path: Path) -> None:
    """So that `store prune` leaves the checkpoints of paused adapters alone."""
    running: list[bool | None] = []

    class Watched(Ranks):
        def train_until(self, *arguments: Any) -> list[RungResult]:
            running.append(is_alive(tmp_path))
            return super().train_until(*arguments)

    made = sweeper("hydra.sweeper.rungs=[2,4]")
    made.launcher = Watched()
    made.sweep(["lora.r=1,2,3,4"])
    assert running and all(running) and not is_alive(tmp_path)


def test_failed_job_raises_as_with_hydras_own_sweeper(run: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="broke"):
        run([], "lora.r=2,4", fails=4)


def test_other_launchers_are_refused_with_the_remedy(sweeper: Callable[..., Any]) -> None:
    made = sweeper("hydra/launcher=basic")
    with pytest.raises(UserError, match=r"BasicLauncher cannot stop a training.*Write hydra/launcher=packed"):
        made.sweep(["lora.r=2,4"])


def test_packed_launcher_is_what_it_needs(sweeper: Callable[..., Any]) -> None:
    assert {"num_steps", "train_until", "record_all"} <= set(dir(sweeper("hydra/launcher=packed").launcher))


@pytest.mark.parametrize("option", ["hydra.sweeper.rungs=[0.5,1.0]", "hydra.sweeper.reduction_factor=1"])
def test_options_are_checked_when_the_sweep_begins(sweeper: Callable[..., Any], option: str) -> None:
    with pytest.raises(InstantiationException) as error:
        sweeper(option)
    assert isinstance(error.value.__cause__, ConfigError)
    assert explain(error.value, TrainConfig).startswith(f"{option.partition('=')[0]}=1.0: ")


def test_intervals_are_refused_as_by_the_basic_sweeper(run: Callable[..., Any]) -> None:
    with pytest.raises(HydraException, match="does not support sweep type"):
        run([], "optim.lr=interval(1e-4,1e-2)")


def test_schema_is_plain(sweeper: Callable[..., Any]) -> None:
    node = ConfigStore.instance().load("hydra/sweeper/halving.yaml").node
    assert OmegaConf.to_container(node)["_target_"] == "hydra_plugins.kimi_audio_ft_halving.sweeper.HalvingSweeper"


class Scored:
    """A launcher whose jobs score what ``value`` says of their overrides; None fails."""

    def __init__(self, value: Callable[[dict[str, str]], float | None]) -> None:
        self.value = value
        self.launched: list[tuple[int, str]] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        returns = []
        for number, job in enumerate(job_overrides, start=initial_job_idx):
            self.launched.append((number, " ".join(job)))
            value = self.value(dict(item.split("=") for item in job))
            returned = JobReturn(overrides=job, cfg=OmegaConf.create({"seed": 5}))
            returned.status = JobStatus.FAILED if value is None else JobStatus.COMPLETED
            returned.return_value = ValueError("broke") if value is None else value
            returns.append(returned)
        return returns


@pytest.fixture
def finalists(sweeper: Callable[..., Any]) -> Callable[..., Scored]:
    """Runs a sweep with finalists over a launcher of such values, and returns it."""

    def make(options: Sequence[str], *arguments: str, value: Callable[[dict[str, str]], float | None]) -> Scored:
        made, launcher = sweeper(*options, name="finalists"), Scored(value)
        made.launcher = launcher
        made.sweep(list(arguments))
        return launcher

    return make


GRID = ("lora.r=8,2,16,4", "decoding.text_temperature=0.0,0.7")


def low_rank(job: dict[str, str]) -> float:
    return int(job["lora.r"]) + (0.5 if job["decoding.text_temperature"] == "0.7" else 0.0)


def test_the_best_adapters_get_the_next_seeds_at_their_best_decoding(finalists: Callable[..., Scored]) -> None:
    made = finalists(["hydra.sweeper.finalists=2"], *GRID, value=low_rank)
    assert [number for number, _ in made.launched] == list(range(12))
    assert made.launched[8:] == [
        (8, "lora.r=2 decoding.text_temperature=0.0 seed=6"),
        (9, "lora.r=2 decoding.text_temperature=0.0 seed=7"),
        (10, "lora.r=4 decoding.text_temperature=0.0 seed=6"),
        (11, "lora.r=4 decoding.text_temperature=0.0 seed=7"),
    ]


def test_a_given_seed_is_replaced_and_batches_come_first(finalists: Callable[..., Scored]) -> None:
    options = ["hydra.sweeper.max_batch_size=3", "hydra.sweeper.finalists=1", "hydra.sweeper.finalist_seeds=2"]
    made = finalists(options, "seed=5", *GRID, value=low_rank)
    assert len(made.launched) == 9 and made.launched[8] == (8, "lora.r=2 decoding.text_temperature=0.0 seed=6")


def test_more_finalists_than_settings_are_all_of_them_and_none_are_none(finalists: Callable[..., Scored]) -> None:
    made = finalists(["hydra.sweeper.finalists=9", "hydra.sweeper.finalist_seeds=2"], *GRID, value=low_rank)
    assert len(made.launched) == 8 + 4
    assert len(finalists(["hydra.sweeper.finalists=null"], *GRID, value=low_rank).launched) == 8


def test_failed_and_diverged_trials_are_no_finalists_and_are_raised_at_the_end(
    finalists: Callable[..., Scored],
) -> None:
    seen: list[str] = []

    def value(job: dict[str, str]) -> float | None:
        seen.append(" ".join(job.values()))
        return {"2": None, "4": float("nan")}.get(job["lora.r"], int(job["lora.r"]))

    with pytest.raises(ValueError, match="broke"):
        finalists(["hydra.sweeper.finalists=1", "hydra.sweeper.finalist_seeds=2"], "lora.r=2,4,8,16", value=value)
    assert seen == ["2", "4", "8", "16", "8 6"]


def test_halving_trains_its_finalists_with_further_seeds(sweeper: Callable[..., Any]) -> None:
    class Both(Ranks):
        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
            self.launched += [f"{initial_job_idx} {' '.join(job)}" for job in job_overrides]
            scored = Scored(lambda job: 1 / int(job["lora.r"]))
            return scored.launch(job_overrides, initial_job_idx)

    made = sweeper("hydra.sweeper.rungs=[2]", "hydra.sweeper.finalists=1")
    made.launcher = Both()
    made.sweep(["lora.r=2,4,8,16"])
    assert made.launcher.launched == ["0 lora.r=8", "0 lora.r=16", "2 lora.r=16 seed=6", "2 lora.r=16 seed=7"]


@pytest.mark.parametrize("name", ["halving", "finalists"])
@pytest.mark.parametrize("option", ["seed", "data.train_subset_seed"])
def test_a_sweep_over_seeds_has_no_finalists(sweeper: Callable[..., Any], name: str, option: str) -> None:
    made = sweeper("hydra.sweeper.finalists=2", name=name)
    with pytest.raises(ConfigError, match=rf"hydra.sweeper.finalists=2: adds seeds .*{option} is swept"):
        made.sweep(["lora.r=2,4", f"{option}=1,2"])


@pytest.mark.parametrize("option", ["finalists=0", "finalist_seeds=1", "max_batch_size=0"])
def test_finalists_are_checked_when_the_sweep_begins(sweeper: Callable[..., Any], option: str) -> None:
    with pytest.raises(InstantiationException) as caught:
        sweeper(f"hydra.sweeper.{option}", name="finalists")
    assert explain(caught.value, TrainConfig).startswith(f"hydra.sweeper.{option}: must be ")


@pytest.mark.parametrize("kind", ["csv", "yaml"])
def test_trials_of_a_file_take_the_place_of_products(run: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    """Pairs of values, each with every value that the command sweeps; Chinese needs no quotes, empty cells are none."""
    file = tmp_path / f"trials.{kind}"
    cells = 'lora.r,data.prompt\n2,转写\n\n8,"a, b"\n4,\n'
    listed = "- {lora.r: 2, data.prompt: 转写}\n- {lora.r: 8, data.prompt: 'a, b'}\n- {lora.r: 4}\n"
    file.write_text({"csv": "\ufeff" + cells, "yaml": listed}[kind], encoding="utf-8")
    launcher, _ = run([f"hydra.sweeper.trials={file}", "hydra.sweeper.rungs=[0.5]"], "seed=1,2")
    best = [f'lora.r=8 data.prompt="a, b" seed={seed}' for seed in (1, 2)]
    assert launcher.launched == [*best, "lora.r=4 seed=1", "lora.r=4 seed=2"]


@pytest.mark.parametrize(
    ("name", "text", "given", "message"),
    [
        ("t.csv", "lora.r,optim.lr\n2\n", [], r"t\.csv:2: has 1 cells, the first line 2"),
        ("t.csv", "lora.r,lora.r\n2,3\n", [], r"t\.csv:1: its first line is 'lora\.r,lora\.r'"),
        ("t.csv", "lora.r\n", [], r"t\.csv: lists no trial\. Its first line names options"),
        ("t.csv", "lora.r\n2\n", ["lora.r=4"], "gives lora.r, and so does the command. Leave it out of one of them"),
        ("t.yaml", "lora.r: 2\n", [], r"t\.yaml: is no list of trials with options"),
        ("t.yaml", "- {", [], r"t\.yaml: cannot be read as YAML"),
        ("none.csv", None, [], "must name a CSV or YAML file, and there is no such file"),
    ],
)
def test_a_wrong_list_of_trials_is_told_with_its_place(
    sweeper: Callable[..., Any], tmp_path: Path, name: str, text: str | None, given: list[str], message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    made = sweeper(f"hydra.sweeper.trials={tmp_path / name}", name="listed")
    with pytest.raises(UserError, match=message):
        made.sweep(given)


def test_a_list_of_trials_must_be_named(sweeper: Callable[..., Any]) -> None:
    with pytest.raises(InstantiationException) as caught:
        sweeper(name="listed")
    assert "must name a CSV or YAML file that lists the trials" in explain(caught.value, TrainConfig)
