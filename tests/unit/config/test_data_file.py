"""``data=my/data``: what it gives is what writing the manifests out gives; a file that is none is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from kimi_audio_ft.cli import explain, with_home
from kimi_audio_ft.config.commands import TokenizeConfig
from kimi_audio_ft.config.data_file import data_file_text, data_values, untokenized, word_for
from kimi_audio_ft.config.train import EvaluateConfig, TrainConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.paths import config_dir

SCHEMAS = {"train": TrainConfig, "evaluate": EvaluateConfig}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``my/data``, as prepare leaves it, in the working folder."""
    folder = tmp_path / "my" / "data"
    folder.mkdir(parents=True)
    (folder / "data.yaml").write_text(data_file_text(["train", "eval", "test"]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:

    def settings(command: str, *overrides: str) -> dict[str, Any]:
        ConfigStore.instance().store(name=f"{command}_schema", node=SCHEMAS[command])
        with initialize_config_dir(config_dir(), version_base="1.3"):
            return OmegaConf.to_container(compose(command, list(overrides)))  # type: ignore[return-value]

    return settings


@pytest.mark.parametrize("command", SCHEMAS)
@pytest.mark.parametrize("model", ["tiny", "kimi_audio_7b_instruct"])
@pytest.mark.parametrize("word", ["my/data", "./my/data", "../{name}/my/data", "my/data/data.yaml", "{folder}"])
def test_a_folder_is_as_its_manifests_written_out(
    folder: Path, composed: Callable[..., dict[str, Any]], command: str, model: str, word: str
) -> None:
    word = word.format(name=folder.parents[1].name, folder=folder)
    place = word.removesuffix("/data.yaml").removeprefix("./")
    written = [f"data.{split}_manifest={place}/{split}.tokens.jsonl" for split in ("train", "eval", "test")]
    expected = composed(command, f"model={model}", *written)
    assert composed(command, f"model={model}", f"data={word}") == expected


def test_it_goes_with_studies_and_options(folder: Path, composed: Callable[..., dict[str, Any]]) -> None:
    study = composed("train", "+experiments=train_sizes", "data=my/data", "data.batch_size=3")["data"]
    assert study["train_manifest"] == "my/data/train.tokens.jsonl" and study["batch_size"] == 3
    own = "train_manifest: a.tokens.jsonl\neval_manifest: /far/eval.tokens.jsonl\nmax_length: 400\naudio_root: wav\n"
    (folder / "long.yaml").write_text(own, encoding="utf-8")
    data = composed("train", "data=my/data/long.yaml")["data"]
    assert (data["max_length"], data["audio_root"]) == (400, "my/data/wav")
    assert data["eval_manifest"] == "/far/eval.tokens.jsonl"


def test_several_manifests_start_from_the_file_too(folder: Path) -> None:
    file = folder / "several.yaml"
    file.write_text("train_manifest: [a.jsonl, ../b.jsonl]\neval_manifest: {far: /c.jsonl, near: d.jsonl}\n")
    assert data_values(file) == {
        "train_manifest": [f"{folder}/a.jsonl", f"{folder}/../b.jsonl"],
        "eval_manifest": {"far": "/c.jsonl", "near": f"{folder}/d.jsonl"},
    }


def test_tokenize_takes_the_same_word(folder: Path) -> None:
    raw = [f"my/data/{split}.jsonl" for split in ("train", "eval", "test")]
    for word in ("my/data", "my/data/data.yaml", ["my/data"]):
        assert TokenizeConfig(manifests=word).manifests == raw
    assert TokenizeConfig(manifests="my/data/train.jsonl").manifests == raw[:1]
    assert TokenizeConfig(manifests=["a.jsonl", "my/data"]).manifests == ["a.jsonl", *raw]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train_manifest: [", "cannot be read as YAML"),
        ("just words", "names none of train_manifest, eval_manifest, test_manifest"),
        ("batch_size: 3", "names none of train_manifest"),
        ("train_manifests: a.jsonl\neval_manifest: b.jsonl", "train_manifests: there is no such option of data.*"),
        ("train_manifest: 3", "train_manifest is 3; it must be the path of a manifest"),
        ("train_manifest: ''", "train_manifest is ''; it must be"),
        ("train_manifest: ${oc.env:NO_SUCH_VARIABLE}", "cannot be read as YAML .*NO_SUCH_VARIABLE"),
    ],
)
def test_a_file_that_names_no_manifests_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"data='.*mine\.yaml': {message}"):
        data_values(file)


def test_a_misspelt_key_gets_a_suggestion(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train_manifests: a.jsonl\neval_manifest: b.jsonl")
    with pytest.raises(ConfigError, match=r"Did you mean train_manifest\?"):
        data_values(file)


def test_manifests_of_other_names_cannot_be_tokenized_by_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train_manifest: a.jsonl")
    with pytest.raises(ConfigError, match=r"train_manifest is 'a\.jsonl'; tokenize makes NAME\.tokens\.jsonl"):
        untokenized(file)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("my", "data=my: there is no such choice, file, or folder with data.yaml. data can be demo, manifests"),
        ("my/nothing", "data=my/nothing: there is no such choice, file, or folder"),
        ("./demo", "data='./demo': there is no such file, or folder with data.yaml"),
        ("/nowhere/data", "data='/nowhere/data': there is no such file"),
        ("own", "data=own: there is no such choice. Write data=./own for the folder"),
    ],
)
def test_what_is_not_there_is_refused(
    folder: Path, composed: Callable[..., dict[str, Any]], word: str, message: str
) -> None:
    (Path("own")).mkdir()
    (Path("own") / "data.yaml").write_text(data_file_text(["train"]), encoding="utf-8")
    with pytest.raises(Exception) as refused:
        composed("train", f"data={word}")
    assert message in explain(refused.value, TrainConfig)


@pytest.mark.parametrize(
    ("manifests", "message"),
    [
        ([], "must name"),
        ("", "must name a folder with a data.yaml, or manifests"),
        ([3], "must name"),
        ("my", "is a folder without data.yaml"),
        ("my/data/other.yaml", "there is no such file"),
    ],
)
def test_what_cannot_be_tokenized_is_refused(folder: Path, manifests: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TokenizeConfig(manifests=manifests)


def test_home_folder_in_an_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    """zsh leaves a ~ behind = as it is, and Hydra's grammar has none in plain values."""
    monkeypatch.setenv("HOME", "/home/someone")
    assert with_home("data=~/my/data") == "data=/home/someone/my/data"
    assert with_home("manifests=[~/a.jsonl,~/b.jsonl]") == "manifests=[/home/someone/a.jsonl,/home/someone/b.jsonl]"
    for kept in ("~lora", "data.prompt='=~/x'", "csv=a~/b", "seed=1", "csv=~other/x"):
        assert with_home(kept) == kept


def test_word_is_never_the_name_of_a_choice() -> None:
    assert [word_for(folder) for folder in ("demo", "my/data", "/data")] == ["./demo", "my/data", "/data"]
