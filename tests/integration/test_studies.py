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

REPOSITORY = Path(__file__).resolve().parents[2]
STUDIES = sorted((REPOSITORY / "experiments").glob("*.yaml"))
TRAIN = "kimi_audio_ft.train"
PROMPTS = sorted(path.stem for path in (REPOSITORY / "conf" / "prompt").glob("*.yaml"))
AUGMENTS = sorted(path.stem for path in (REPOSITORY / "conf" / "augment").glob("*.yaml"))


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
def test_a_study_says_question_command_and_cost_and_its_commands_compose(workplace: Any, study: Path) -> None:
    head = head_of(study)
    for word in ("Question: ", "Command:  ", "Cost:     "):
        assert len(re.findall(rf"^ {word}\S", head, flags=re.MULTILINE)) == 1, word
    commands = commands_of(study)
    assert [command for command in commands if re.fullmatch(rf"\+experiments=(\[.*\b)?{study.stem}]?", command[0])]
    for command in commands:
        done = workplace.run(TRAIN, *first_values(command), "--cfg", "job")
        assert done.code == 0, (command, done.err)


@pytest.mark.parametrize("study", ["prompts", "train_sizes", "augmentation", "next_steps"])
def test_studies_of_data_run_on_both_models_by_one_file(workplace: Any, study: str) -> None:
    commands = commands_of(REPOSITORY / "experiments" / f"{study}.yaml")
    assert len(commands) == 2
    tiny, large = (workplace.run(TRAIN, *first_values(command), "--cfg", "job").out for command in commands)
    assert "path: tiny" in tiny and "train_manifest: outputs/demo/" in tiny
    assert "path: moonshotai/Kimi-Audio-7B-Instruct" in large and "train_manifest: data/report_10k/" in large
    assert "accumulate: 8" in large and "strategy: ddp" in large and "optim:\n  lr: 5.0e-05" in large


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_of_the_group_is_the_data_s_prompt(workplace: Any, name: str) -> None:
    own = yaml.safe_load((REPOSITORY / "conf" / "prompt" / f"{name}.yaml").read_text(encoding="utf-8"))["prompt"]
    for module in (TRAIN, "kimi_audio_ft.evaluate"):
        done = workplace.run(module, f"prompt={name}", "--cfg", "job")
        assert yaml.safe_load(done.out)["data"]["prompt"] == own, done.err
    assert (own is None) == (name == "manifest")
    overridden = workplace.run(TRAIN, f"prompt={name}", "data.prompt='写：'", "--cfg", "job")
    assert yaml.safe_load(overridden.out)["data"]["prompt"] == "写："


@pytest.mark.parametrize("name", AUGMENTS)
def test_an_augmentation_of_the_group_is_valid(workplace: Any, name: str) -> None:
    from kimi_audio_ft.schema import AugmentConfig

    done = workplace.run(TRAIN, f"augment={name}", "--cfg", "job")
    found = AugmentConfig(**yaml.safe_load(done.out)["data"]["augment"])
    assert (found == AugmentConfig()) == (name == "none")


@pytest.fixture(scope="module")
def study_of(place: Any, short: tuple[str, ...]) -> Any:
    """Runs a study, shortened; returns what it printed and its trials.json."""

    def run(name: str, *overrides: str) -> tuple[str, dict[str, Any]]:
        done = place.run(TRAIN, f"+experiments={name}", *short, f"hydra.sweep.dir={name}", *overrides)
        assert done.code == 0, done.err
        return done.out, json.loads((place.folder / name / "trials.json").read_text(encoding="utf-8"))

    return run


def params_of(document: dict[str, Any], param: str, kind: str = "trials") -> list[Any]:
    return [trial["params"][param] for trial in document[kind]]


@pytest.mark.slow
class TestOnTheTinyModel:
    def test_prompts(self, study_of: Any) -> None:
        out, found = study_of("prompts")
        assert found["swept"] == ["prompt"] and {trial["status"] for trial in found["trials"]} == {"COMPLETED"}
        assert [trial["trial"] for trial in found["trials"]] == [
            f"prompt={name}" for name in ("report", "chinese", "official", "written", "english")
        ]
        prompts = params_of(found, "data.prompt")
        assert len(set(prompts)) == 5 and "Generate the transcription:" in prompts
        assert sorted(params_of(found, "data.prompt", "baselines")) == sorted(prompts)
        assert len({trial["signature"] for trial in found["trials"]}) == 5
        assert len({tuple(trial["transcript_signatures"]) for trial in found["baselines"]}) == 5
        assert len({trial["eval_identity"] for trial in [*found["trials"], *found["baselines"]]}) == 1
        assert "english" in out and "prompt=" in out

    def test_train_sizes(self, study_of: Any) -> None:
        out, found = study_of("train_sizes", "data.train_subset=2,4,null")
        sizes = [trial["train_conversations"] for trial in found["trials"]]
        assert sizes[:2] == [2, 4] and sizes[2] > 4 and len({trial["signature"] for trial in found["trials"]}) == 3
        assert len(found["baselines"]) == 1
        [curve] = found["learning_curve"]["curves"]
        assert [point["size"] for point in curve["points"]] == sizes and curve["steps"] == [4, 4]
        assert "Learning curve over 3 training sets of 2 to" in out and "Forecast: " in out

    def test_augmentation(self, study_of: Any) -> None:
        out, found = study_of("augmentation")
        assert found["swept"] == ["augment"] and len({trial["signature"] for trial in found["trials"]}) == 5
        assert [trial["params"]["data.augment.time_masks"] for trial in found["trials"]] == [0, 0, 0, 2, 2]
        assert len(found["baselines"]) == 1 and "specaugment" in out

    def test_next_steps(self, study_of: Any) -> None:
        _, found = study_of("next_steps", "decoding.repeats=2", "decoding.max_new_tokens=4")
        assert found["swept"] == ["lora.r", "optim.lr", "decoding.text_temperature"]
        assert len(found["trials"]) == 24 and len({trial["signature"] for trial in found["trials"]}) == 6
        assert {trial["params"]["lora.r"]: trial["params"]["lora.lora_alpha"] for trial in found["trials"]} == {
            **{8: 16, 16: 32, 32: 64}
        }
        repeats = {trial["params"]["decoding.text_temperature"]: len(trial["cer_repeats"]) for trial in found["trials"]}
        assert repeats == {0.0: 1, 0.1: 2, 0.2: 2, 0.3: 2}
