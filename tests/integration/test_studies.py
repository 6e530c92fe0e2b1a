"""Every study: what its first lines promise, that its commands compose as written, and the four of data as sweeps."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.bench_overhead import TRAIN_CLIPS
from kimi_audio_ft.config.canonical import augment_form
from kimi_audio_ft.config.train import AugmentConfig
from tests.integration.conftest import SHORT, Workplace

REPOSITORY = Path(__file__).resolve().parents[2]
STUDIES = sorted((REPOSITORY / "experiments").glob("*.yaml"))
TRAIN = "kimi_audio_ft.train"
FOLDERS = {"noise_folder": str(REPOSITORY), "room_folder": str(REPOSITORY)}
OF_DATA = ("prompts", "train_sizes", "augmentation", "next_steps")


def head_of(study: Path) -> str:
    """A study's first comment lines as one text, with continued lines joined."""
    lines = study.read_text(encoding="utf-8").splitlines()
    comments = [line.removeprefix("#").rstrip() for line in lines if line.startswith("#")]
    return re.sub(r" \\\n\s*", " ", "\n".join(comments))


def commands_of(study: Path) -> list[list[str]]:
    """The arguments of every training command in a study's first lines."""
    found = re.findall(r"python -m kimi_audio_ft\.train (.*?)(?:\)?$|\)?    )", head_of(study), flags=re.MULTILINE)
    return [shlex.split(arguments) for arguments in found]


def first_values(overrides: list[str]) -> list[str]:
    """One job's overrides: the first value of every one that has several."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    return [
        f"{one.get_key_element()}={next(one.sweep_string_iterator())}"
        if one.is_sweep_override()
        else str(one.input_line)
        for one in parsed
    ]


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.stem)
def test_a_study_says_question_command_and_cost_and_its_commands_compose(workplace: Workplace, study: Path) -> None:
    head = head_of(study)
    for word in ("Question: ", "Command:  ", "Cost:     "):
        assert len(re.findall(rf"^ {word}\S", head, flags=re.MULTILINE)) == 1, word
    composed = []
    for command in commands_of(study):
        assert re.fullmatch(rf"\+experiments=(\[report_10k,)?{study.stem}]?", command[0])
        said = workplace.succeed(TRAIN, *first_values(command), "--cfg", "job")
        composed.append(said)
    assert composed
    if study.stem in OF_DATA:  # one file for both models
        tiny, large = composed
        assert "path: tiny" in tiny and "train_manifest: outputs/demo/" in tiny
        assert "path: moonshotai/Kimi-Audio-7B-Instruct" in large and "train_manifest: data/report_10k/" in large
        assert "accumulate: 8" in large and "strategy: ddp" in large and "schedule: linear" in large


def test_the_sizes_of_a_learning_curve_are_those_that_the_demo_has() -> None:
    study = yaml.safe_load((REPOSITORY / "experiments" / "train_sizes.yaml").read_text(encoding="utf-8"))
    *sizes, whole = study["hydra"]["sweeper"]["params"]["data.train_subset"].split(",")
    assert whole == "null" and max(map(int, sizes)) < TRAIN_CLIPS


def test_prompts_are_texts_of_their_own_for_the_data() -> None:
    files = sorted((REPOSITORY / "conf" / "prompt").glob("*.yaml"))
    texts = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))["prompt"] for path in files}
    assert texts.pop("manifest") is None
    assert len(set(texts.values())) == len(texts) >= 5 and all(text.strip() == text != "" for text in texts.values())
    assert all(path.read_text(encoding="utf-8").startswith("# @package data\n# ") for path in files)


def test_augmentations_are_valid_and_only_none_is_nothing() -> None:
    for path in (REPOSITORY / "conf" / "augment").glob("*.yaml"):
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = augment_form(AugmentConfig(**fields | FOLDERS if path.stem in ("noise", "rooms") else fields))
        assert (found == AugmentConfig()) == (path.stem == "none"), path


@pytest.mark.parametrize("module", [TRAIN, "kimi_audio_ft.evaluate"])
def test_a_chosen_prompt_is_the_data_s_and_a_typed_one_wins(workplace: Workplace, module: str) -> None:
    def prompt(*overrides: str) -> str | None:
        said = workplace.succeed(module, *overrides, "--cfg", "job")
        return yaml.safe_load(said)["data"]["prompt"]

    assert prompt("prompt=english") == "Generate the transcription:"
    assert prompt("prompt=english", "data.prompt='写：'") == "写："
    assert prompt("prompt=manifest") is None


def test_a_chosen_augmentation_is_the_data_s(workplace: Workplace) -> None:
    done = workplace.run(TRAIN, "augment=speed", "data.augment.time_masks=1", "--cfg", "job")
    found = yaml.safe_load(done.out)["data"]["augment"]
    assert found["speeds"] == [0.9, 1.0, 1.1] and found["time_masks"] == 1 and found["gains_db"] == [0.0]


def test_the_folders_of_noise_and_rooms_are_asked_for_and_a_sweep_may_give_both(workplace: Workplace) -> None:
    """Each choice takes what it is named after, ``all`` whatever is given."""
    for choice, option in (("noise", "noise_folder"), ("rooms", "room_folder")):
        done = workplace.run(TRAIN, f"augment={choice}", *SHORT)
        assert done.code == 2 and f"needs recordings. Give data.augment.{option}=FOLDER" in done.err
    used = {}
    for choice in ("none", "rooms", "all"):
        given = ("data.augment.noise_folder=data", "data.augment.room_folder=data")
        done = workplace.run(TRAIN, f"augment={choice}", *given, "--cfg", "job")
        form = augment_form(AugmentConfig(**yaml.safe_load(done.out)["data"]["augment"] | FOLDERS))
        used[choice] = (form.noise_folder is not None, form.room_folder is not None)
    assert used == {"none": (False, False), "rooms": (False, True), "all": (True, True)}


@pytest.fixture(scope="module")
def study_of(place: Workplace) -> Any:
    """Runs a study, shortened; returns what it printed and its trials.json."""

    def run(name: str, *overrides: str) -> tuple[str, dict[str, Any]]:
        said = place.succeed(TRAIN, f"+experiments={name}", *SHORT, f"hydra.sweep.dir={name}", *overrides)
        return said, json.loads((place.folder / name / "trials.json").read_text(encoding="utf-8"))

    return run


def params_of(document: dict[str, Any], param: str, kind: str = "trials") -> list[Any]:
    return [trial["params"][param] for trial in document[kind]]


@pytest.mark.slow
class TestOnTheTinyModel:
    def test_prompts(self, study_of: Any) -> None:
        out, found = study_of("prompts", "prompt=report,english")
        assert found["swept"] == ["prompt"] and {trial["status"] for trial in found["trials"]} == {"COMPLETED"}
        assert [trial["trial"].split(",")[0] for trial in found["trials"]] == [
            f"prompt={name}" for name in ("report", "english")
        ]
        prompts = params_of(found, "data.prompt")
        assert len(set(prompts)) == 2 and "Generate the transcription:" in prompts
        assert sorted(params_of(found, "data.prompt", "baselines")) == sorted(prompts)
        assert len({trial["signature"] for trial in found["trials"]}) == 2
        assert len({tuple(trial["transcript_signatures"]) for trial in found["baselines"]}) == 2
        assert len({trial["eval_identity"] for trial in [*found["trials"], *found["baselines"]]}) == 1
        assert "english" in out and "prompt=" in out

    def test_train_sizes(self, study_of: Any) -> None:
        out, found = study_of("train_sizes", "data.train_subset=2,4,null")
        sizes = [trial["train_conversations"] for trial in found["trials"]]
        assert sizes[:2] == [2, 4] and sizes[2] > 4 and len({trial["signature"] for trial in found["trials"]}) == 3
        assert len(found["baselines"]) == 1
        [curve] = found["learning_curve"]["curves"]
        assert [point["size"] for point in curve["points"]] == sizes and curve["steps"] == [4, 4]
        said = " ".join(out.split())
        assert "Learning curve, all trials: CER" in said and "Forecast for more conversations:" in said

    def test_augmentation(self, study_of: Any) -> None:
        out, found = study_of("augmentation", "augment=none,speed,specaugment")
        assert found["swept"] == ["augment"] and len({trial["signature"] for trial in found["trials"]}) == 3
        assert [trial["params"]["data.augment.time_masks"] for trial in found["trials"]] == [0, 0, 2]
        assert len(found["baselines"]) == 1 and "specaugment" in out

    def test_next_steps(self, study_of: Any) -> None:
        _, found = study_of(
            "next_steps", "lora.r=8,16", "optim.lr=2e-5", "decoding.text_temperature=0.0,0.3", "decoding.repeats=2"
        )
        assert found["swept"] == ["lora.r", "decoding.text_temperature"]
        assert len(found["trials"]) == 4 and len({trial["signature"] for trial in found["trials"]}) == 2
        assert {trial["params"]["lora.r"]: trial["params"]["lora.lora_alpha"] for trial in found["trials"]} == {
            **{8: 16, 16: 32}
        }
        repeats = {trial["params"]["decoding.text_temperature"]: len(trial["cer_repeats"]) for trial in found["trials"]}
        assert repeats == {0.0: 1, 0.3: 2}

    def test_confirm(self, study_of: Any, place: Workplace) -> None:
        """The best of two adapters is trained with a further seed; the same command again makes nothing."""
        short = (
            "lora.r=2,4",
            "optim.lr=1e-3",
            "baseline=false",
            "hydra.sweeper.finalists=1",
            "hydra.sweeper.finalist_seeds=2",
        )
        out, found = study_of("confirm", *short)
        assert [trial["params"]["seed"] for trial in found["trials"]] == [1, 1, 2]
        assert sorted(len(setting["trials"]) for setting in found["settings"] if setting["kind"] == "setting") == [1, 2]
        assert "seeds" in out and found["swept"] == ["lora.r", "seed"]
        record = json.loads((place.folder / "confirm" / "engine.json").read_text(encoding="utf-8"))
        assert record["trials"] == 3 and record["jobs"]["2"]["overrides"][-1] == "seed=2"
        before = place.products("adapter"), place.products("transcript")
        _, again = study_of("confirm", *short)
        assert (place.products("adapter"), place.products("transcript")) == before
        assert [trial["scores"] for trial in again["trials"]] == [trial["scores"] for trial in found["trials"]]
