"""Configs of a sweep's jobs from one template: the same as Hydra's own, whatever the overrides are."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from kimi_audio_ft.cli import settings_of, to_settings
from kimi_audio_ft.config.train import ScoringConfig, TrainConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.inputs import Inputs
from kimi_audio_ft.paths import config_dir
from kimi_audio_ft.sweep.compose import JobConfig, TemplateLoader, to_yaml
from kimi_audio_ft.sweep.launch import Job, prepare, refuse_to_sweep_scoring
from kimi_audio_ft.trial import Trial

COMMON = ["logger=none", "trainer.max_steps=3", 'data.prompt="转写：a=b"']
SWEEPS = {
    "plain": [["lora.r=8", "optim.lr=2e-5"], ["lora.r=16", "optim.lr=1"], ["lora.r=16", "optim.lr=1e-4"]],
    "seed": [["seed=1"], ["seed=2", "baseline=false"]],
    "groups": [["lora=attention", "lora.r=4"], ["lora=report", "lora.r=4"], ["lora.r=4", "decoding=greedy"]],
    "study": [["+experiments=demo", "lora.r=2"], ["+experiments=demo", "lora.r=4"]],
    "lists": [["lora.target_modules=[a,b]", "data.augment.speeds=[0.9,1.0]"], ["lora.target_modules=decoder"]],
    "null": [["data.prompt=null", "lora.lora_alpha=null"], ["lora.lora_alpha=3"]],
    "interpolation": [["lora.lora_alpha=${lora.r}", "logger.project=${hydra:job.num}"], ["lora.lora_alpha=7"]],
    "quoted": [["logger.project='a b, c'"], ['logger.project="x=y"'], ["logger.project='中文'"]],
    "twice": [["lora.r=8", "lora.r=4"], ["lora.r=2", "lora.r=16"]],
    "added": [["+trainer.deepspeed.a=1"], ["++lora.r=5", "lora.r=6"], ["lora.r=6", "++lora.r=5"]],
    "deleted": [["~optim", "lora.r=1"], ["~optim", "lora.r=2"]],
    "dicts": [
        ["++trainer.deepspeed={a: 1}"],
        ["++trainer.deepspeed={b: 2}"],
        ["optim={lr: 3}", "optim.lr=2"],
        ["lora={r: 3}", "lora.lora_alpha=2"],
    ],
    "hydra": [["hydra.verbose=true", "lora.r=1"], ["hydra.job.name=other"]],
    "strategies": [
        ["trainer=ddp", "trainer.devices=2"],
        ["trainer=deepspeed_zero3"],
        ["trainer=ddp", "trainer.devices=1"],
    ],
}
REFUSED = [["lora.rank=3"], ["lora.r=many"], ["lora=nope"], ["lora.r=1,2"], ["lora.r="], ["lora.r=8", "nope.a=1"]]


def some_quick(cases: Iterable[Any], count: int) -> list[Any]:
    """The first of the cases are part of the everyday checks; Hydra takes long for each."""
    return [pytest.param(case, marks=[pytest.mark.slow] if place >= count else []) for place, case in enumerate(cases)]


@pytest.fixture(scope="module")
def loaded() -> Iterator[tuple[ConfigLoaderImpl, DictConfig]]:
    """Hydra's loader and the config of a multirun of ``train``."""
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    GlobalHydra.instance().clear()
    setup_globals()
    with initialize_config_dir(config_dir(), job_name="train", version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        overrides = ["hydra.job.config.override_dirname.exclude_keys=[optim.lr]", *COMMON]
        yield hydra.config_loader, hydra.compose_config("train", overrides, RunMode.MULTIRUN)


def one_by_one(loader: Any, master: DictConfig, jobs: list[list[str]], first: int) -> list[DictConfig]:
    """What the basic launcher does."""
    configs = []
    for number, overrides in enumerate(jobs, start=first):
        config = loader.load_sweep_config(master, list(overrides))
        with open_dict(config):
            config.hydra.job.id = number
            config.hydra.job.num = number
        configs.append(config)
    return configs


def from_templates(loader: TemplateLoader, master: DictConfig, jobs: list[list[str]], first: int) -> list[JobConfig]:
    """What the packed launcher does."""
    return [loader.job(master, overrides, number) for number, overrides in enumerate(jobs, start=first)]


def everything(node: Any) -> Any:
    """Values as written, with the types and flags of all nodes."""
    about = (node._metadata.object_type, node._metadata.ref_type, node._metadata.optional, node._metadata.flags)
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation() and not node._is_missing():
        return about, {key: everything(node._get_node(key)) for key in sorted(node.keys(), key=str)}
    if OmegaConf.is_list(node) and not node._is_none() and not node._is_interpolation() and not node._is_missing():
        return about, [everything(node._get_node(place)) for place in range(len(node))]
    return about, node._value()


def hydras_files(config: DictConfig, folder: Path) -> dict[str, str]:
    """What Hydra writes beside the records of a job."""
    whole = copy.deepcopy(config)
    with open_dict(whole):
        whole.hydra.runtime.output_dir = str(folder.absolute())
    keys = [key for key in whole if key != "hydra"]
    written = {"config": OmegaConf.masked_copy(whole, keys), "hydra": OmegaConf.masked_copy(whole, ["hydra"])}
    written["overrides"] = whole.hydra.overrides.task
    return {f"{name}.yaml": OmegaConf.to_yaml(content) for name, content in written.items()}


@pytest.mark.parametrize("name", some_quick(SWEEPS, 3))
def test_as_hydra_composes(loaded: Any, name: str) -> None:
    loader, master = loaded
    hydra = GlobalHydra.instance().hydra
    if name == "study" and hydra is not None:  # Hydra 1.4 refuses a job that changes the sweep's own sweeper
        master = hydra.compose_config("train", [*COMMON, "+experiments=demo"], RunMode.MULTIRUN)
    jobs = [[*COMMON, *overrides] for overrides in SWEEPS[name]]
    expected, found = one_by_one(loader, master, jobs, 5), from_templates(TemplateLoader(loader), master, jobs, 5)
    for theirs, job in zip(expected, found, strict=True):
        ours = job.composed()
        assert OmegaConf.to_yaml(ours) == OmegaConf.to_yaml(theirs)
        assert everything(ours) == everything(theirs) == everything(job.lent())
        assert job.texts(job.values(Path("out"))) == hydras_files(theirs, Path("out"))
        HydraConfig.instance().set_config(theirs)
        resolved = OmegaConf.to_container(theirs.hydra.job, resolve=True)
        HydraConfig.instance().set_config(ours)
        assert OmegaConf.to_container(ours.hydra.job, resolve=True) == resolved
        assert str(ours.hydra.sweep.dir) == str(theirs.hydra.sweep.dir)  # the time of the sweep, not of the job


@pytest.mark.parametrize(
    ("command", "jobs", "by_hydra"),
    [
        (["lora.r=1,2", "seed=3", "+data.eval_manifest.a=b"], [["lora.r=1", "seed=3", "+data.eval_manifest.a=b"]], 1),
        (["lora=report", "lora.r=1,2"], [["lora=report", f"lora.r={rank}", "optim.lr=1"] for rank in (2, 1)], 0),
        (["decoding=greedy,sampled"], [["decoding=greedy"], ["decoding=sampled"]], 2),
    ],
)
def test_of_the_sweeps_own_config(
    loaded: Any, composed: list[Any], command: list[str], jobs: Any, by_hydra: int
) -> None:
    """Hydra composes jobs that choose other files than the sweep's command, and only those."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    master = hydra.compose_config("train", [*COMMON, *command], RunMode.MULTIRUN)
    jobs = [[*COMMON, *job] for job in jobs]
    found = from_templates(TemplateLoader(loaded[0]), master, jobs, 0)
    assert len(composed) == by_hydra
    for theirs, job in zip(one_by_one(loaded[0], master, jobs, 0), found, strict=True):
        assert everything(job.composed()) == everything(theirs)
        assert job.texts(job.values(Path("out"))) == hydras_files(theirs, Path("out"))


@pytest.fixture
def composed(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Jobs that Hydra composes."""
    found: list[Any] = []
    own = loaded[0].load_sweep_config
    monkeypatch.setattr(loaded[0], "load_sweep_config", lambda *given: found.append(given) or own(*given))
    return found


def test_a_sweepers_look_at_every_job_composes_once_too(loaded: Any, composed: list[Any]) -> None:
    loader, master = loaded
    ours = TemplateLoader(loader)
    for rank in (2, 4, 8):
        assert ours.load_sweep_config(master, [*COMMON, "lora=report", f"lora.r={rank}"]).lora.r == rank
    assert len(composed) == 1
    other = copy.deepcopy(master)
    with open_dict(other):
        other.hydra.sweep.dir = "elsewhere"
    assert ours.load_sweep_config(other, [*COMMON, "lora=report", "lora.r=2"]) is not None
    assert len(composed) == 2  # another sweep is another template
    ours.job(other, [*COMMON, "lora=report", "lora.r=2"], 3)
    looked_at = ours.load_sweep_config(other, [*COMMON, "lora=report", "lora.r=2"])
    assert OmegaConf.is_missing(looked_at.hydra.job, "num") and OmegaConf.is_missing(looked_at.hydra.job, "id")
    assert ours.list_groups("") == loader.list_groups("")


def test_jobs_share_no_value(loaded: Any) -> None:
    loader, master = loaded
    jobs = from_templates(TemplateLoader(loader), master, [["lora.r=1"], ["lora.r=2"]], 0)
    first, second = (job.composed() for job in jobs)
    first.optim.lr = 7.0
    first.hydra.job.name = "changed"
    assert second.optim.lr != 7.0 and second.hydra.job.name == "train"


def test_configs_whose_classes_cannot_be_pickled(loaded: Any) -> None:
    @dataclass
    class Local:
        value: int = 3

    ConfigStore.instance().store(group="trainer/deepspeed", name="local", node=Local)
    loader, master = loaded
    jobs = [[*COMMON, "+trainer/deepspeed=local", f"lora.r={rank}"] for rank in (1, 2)]
    configs = [job.composed() for job in from_templates(TemplateLoader(loader), master, jobs, 0)]
    assert [(config.lora.r, config.trainer.deepspeed.value) for config in configs] == [(1, 3), (2, 3)]


@pytest.mark.parametrize("overrides", some_quick(REFUSED, 2))
def test_refused_as_by_hydra(loaded: Any, overrides: list[str]) -> None:
    loader, master = loaded
    jobs = [[*COMMON, "lora.r=1"], [*COMMON, *overrides]]
    with pytest.raises(Exception) as theirs:
        one_by_one(loader, master, jobs, 0)
    with pytest.raises(Exception) as ours:
        from_templates(TemplateLoader(loader), master, jobs, 0)
    assert (type(ours.value), str(ours.value)) == (type(theirs.value), str(theirs.value))


def test_a_large_sweep_is_composed_and_checked_at_once(loaded: Any, composed: list[Any]) -> None:
    """Hydra composes nothing more, and the settings are those of a job by itself."""
    loader, master = loaded
    common = [*COMMON, "data.train_manifest=nowhere.jsonl"]
    jobs = [[*common, f"lora.r={1 + number}", f"optim.lr={number + 1}e-5"] for number in range(60)]
    configs = from_templates(TemplateLoader(loader), master, jobs, 0)
    assert not composed
    job = Job(40, jobs[40], configs[40])
    prepare(job, Inputs())
    (alone,) = one_by_one(loader, master, [jobs[40]], 40)
    with open_dict(alone):
        del alone["hydra"]
    assert job.trial is None and job.plan is None and job.error is not None  # there is no manifest
    assert to_settings(alone).lora.r == 41
    values = {name: value for name, value in configs[40].values(Path()).items() if name != "hydra"}
    assert settings_of(TrainConfig, values) == to_settings(alone)


def test_trials_that_would_be_scored_differently_are_refused_before_anything_is_made(loaded: Any) -> None:
    (config,) = from_templates(TemplateLoader(loaded[0]), loaded[1], [COMMON], 0)

    def jobs(*scorings: ScoringConfig) -> list[Job]:
        trials = [Trial(TrainConfig(scoring=scoring)) for scoring in scorings]
        return [Job(number, [], config, trial=trial) for number, trial in enumerate(trials, start=4)]

    same = ScoringConfig(fillers=["嗯"])
    refuse_to_sweep_scoring([])
    refuse_to_sweep_scoring(jobs(same, same))
    with pytest.raises(ConfigError) as error:
        refuse_to_sweep_scoring(jobs(same, same, ScoringConfig(erhua=False)))
    assert str(error.value).startswith(
        "scoring.fillers=[]: differs between the trials of this sweep (['嗯'] in trial 4, [] in trial 6), and only"
    )


def test_yaml_is_omegaconfs() -> None:
    texts = ["1", "1e-3", "1e3", ".5", "1_0", "0x1f", "yes", "n", "On", "null", "~", "nan", "-inf", "Infinity", "1:30"]
    texts += ["", " a", "a: b", "#", "'", '"', "[a]", "{a}", "语音", "two\nlines", "%", "@", "*", "&", "-", "a" * 200]
    values = {
        "texts": texts,
        "numbers": [1, 1.0, 1e-5, 1e30, -0.0, True, None],
        "empty": {},
        "none": [],
        "${a}": "${b}",
    }
    assert to_yaml(values) == OmegaConf.to_yaml(OmegaConf.create(values))
