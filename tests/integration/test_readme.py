"""README.md and docs/ as a newcomer follows them: commands run or compose, and what they name exists."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from socket import socket
from string import Template

import pytest

from kimi_audio_ft.cli import OPEN, option_names
from kimi_audio_ft.config.commands import PrepareConfig, TokenizeConfig
from kimi_audio_ft.config.data_file import data_file_text
from kimi_audio_ft.config.launcher import HalvingConfig, LauncherConfig
from kimi_audio_ft.config.train import EvaluateConfig, TrainConfig
from kimi_audio_ft.config.transcribe import TranscribeConfig
from kimi_audio_ft.files import read_jsonl
from tests.integration.conftest import Forked, Workplace

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = ("getting_started", "sweeps", "verdict", "7b", "clusters", "store", "wandb")
PAGE_END = "\n\f"
GUIDE = PAGE_END.join([README, *((REPOSITORY / "docs" / f"{page}.md").read_text(encoding="utf-8") for page in PAGES)])
RECOGNISER = (REPOSITORY / "docs" / "recogniser.md").read_text(encoding="utf-8")
TRAIN, TRANSCRIBE = "kimi_audio_ft.train", "kimi_audio_ft.transcribe"
SERVE = "kimi_audio_ft.serve"
# So that the page's commands take seconds; nothing else about them is changed.
SHORTER = {
    TRAIN: (
        *("trainer.max_steps=2", "decoding.max_new_tokens=8", "trainer.progress=false", "logger=none"),
        "trainer.threads=0",  # one process for a sweep: two would start on cores that other tests use
    ),
    "kimi_audio_ft.evaluate": ("decoding.max_new_tokens=8", "trainer.progress=false"),
    "kimi_audio_ft.tokenize": ("progress=false",),
    TRANSCRIBE: ("decoding.max_new_tokens=8", "progress=false"),
    "kimi_audio_ft.prepare": ("max_refused=0.25",),  # 5 of the corpus's 20 rows are bad
}
# Two training steps teach no words: many texts are empty, others have too many characters.
OF_FEW_WORDS = ("max_refused=1", "max_chars_per_second=100")


def commands(section: str | None = None, page: str = GUIDE) -> list[list[str]]:
    """The words of every command in the page's bash blocks, or in one section's, with $NAMES put in."""
    text = page if section is None else re.split(rf"\n## |{PAGE_END}", page.split(f"\n## {section}\n")[1])[0]
    names: dict[str, str] = {}
    found = []
    for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
        for line in whole_lines(block.replace("\\\n", " ")):
            words = shlex.split(Template(line).safe_substitute(names), comments=True)
            assigned = re.fullmatch(r"([A-Z]+)=(.*)", words[0]) if len(words) == 1 else None
            if assigned:
                names[assigned[1]] = assigned[2]
            elif words:
                found.append(words)
    return found


def whole_lines(block: str) -> Iterator[str]:
    """Lines, those with quotes that go on in the next one together."""
    line = ""
    for part in block.splitlines(keepends=True):
        line += part
        try:
            shlex.split(line, comments=True)
        except ValueError:
            continue
        yield line
        line = ""
    assert not line, "an open quote"


def spans() -> Iterator[str]:
    """What stands between single backticks outside of blocks."""
    return iter(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", GUIDE, flags=re.DOTALL)))


@pytest.mark.slow
def test_own_recordings(corpus: Path, workplace: Workplace) -> None:
    shutil.rmtree(workplace.store)
    shutil.copytree(corpus, workplace.folder / "my")
    section = commands("Step by step")
    assert section[0] == ["source", ".venv/bin/activate"]
    assert all(words in section for words in commands("Your own recordings"))
    assert {words[2] for words in section[1:]} == {*SHORTER, "kimi_audio_ft.store"} - {TRANSCRIBE}
    for words in section[1:]:
        assert words[:2] == ["python", "-m"], words
        module, arguments = words[2], words[3:]
        if any("SIGNATURE" in argument for argument in arguments):
            listed = json.loads(workplace.run("kimi_audio_ft.store", "ls", "--json").out)
            signature = next(row["signature"] for row in listed if row["kind"] == "adapter")
            arguments = [argument.replace("SIGNATURE", signature) for argument in arguments]
        workplace.succeed(module, *arguments, *SHORTER.get(module, ()))
    for place, words in enumerate(commands("How a sweep runs")):  # the adapters are those of the page's first sweep
        own = [f"hydra.sweep.dir=sweeps/{place}"] if words[2] == TRAIN else []
        own += ["hydra.sweeper.rungs=[1]"] if "hydra/sweeper=halving" in words else []  # of two steps
        workplace.succeed(words[2], *words[3:], *SHORTER.get(words[2], ()), *own)
    for words in commands("Look, verify, prune"):
        workplace.succeed(words[2], *words[3:])
    (report,) = (workplace.folder / "outputs" / "sweep").glob("*/*/report.html")
    named = {"SIGNATURE": signature, "SWEEP_FOLDER": str(report.parent)}
    of_page = ("Texts of recordings", "Adapters beside it", "Combining what a sweep has made")
    used = [words for part in of_page for words in commands(part, RECOGNISER)]
    for words in [*commands("Wrong labels"), *used]:
        if words[0] == "cp":
            shutil.copyfile(*(workplace.folder / name for name in words[1:]))
            continue
        arguments = [re.sub("|".join(named), lambda found: named[found[0]], word) for word in words[3:]]
        shorter = OF_FEW_WORDS if "csv=my/sure/corrected.csv" in words else SHORTER.get(words[2], ())
        workplace.succeed(words[2], *arguments, *shorter)
    assert (workplace.folder / "my" / "labels" / "suspects.csv").is_file()
    for name in ("trials.csv", "trials.json"):
        assert (report.parent / name).is_file()
    assert (workplace.folder / "my" / "data" / "rejected.jsonl").is_file()
    assert (workplace.folder / "my" / "corrected" / "train.jsonl").is_file()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("openai") is None or find_spec("fastapi") is None, reason="the extra `serve` is missing")
def test_from_a_sweep_to_a_recogniser(workplace: Workplace, swept: Workplace) -> None:
    """Each command as it is typed after `make demo`, whose sweep is a smaller one here."""
    shutil.copytree(swept.store, workplace.store, dirs_exist_ok=True)
    of_base = shutil.ignore_patterns("baseline*")  # which four steps do not make worse than the adapter
    sweep = shutil.copytree(swept.folder / "first", workplace.folder / "outputs" / "demo" / "sweep", ignore=of_base)
    workplace.succeed("multirun_analysis", "outputs/demo/sweep")
    with socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port, printed = str(taken.getsockname()[1]), list[str]()
    server: Forked | None = None
    try:
        for words in commands("From the sweep to a recogniser"):
            if words == ["kill", "%1"]:
                break
            module, arguments = words[2], [word.replace("port=8000", f"port={port}") for word in words[3:]]
            if words[:2] == ["python", "-c"]:
                with contextlib.chdir(workplace.folder), contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(module.replace(":8000/", f":{port}/"), {})
                printed.append(out.getvalue())
            elif words[-1] == "&":
                server = workplace.fork(module, *arguments[:-1], "threads=1")
            else:
                shorter = ("--segments", "1") if module == "kimi_audio_ft.demo.corpus" else ()
                printed.append(workplace.succeed(module, *arguments, *shorter))
    finally:
        if server is not None:
            server.process.terminate()
    assert server is not None and server.wait().code == 0
    rows = read_jsonl(workplace.folder / "my" / "texts" / "transcripts.jsonl")
    heard = next(row["text"] for row in rows if row["audio"].endswith("meeting_001_01.wav"))
    assert printed[-1] == f"{heard}\n"
    assert "differs from base + adapter by 0.00%" in printed[-3] and "Qwen2ForCausalLM" in printed[-2]
    combined = json.loads((sweep / "trials.json").read_text(encoding="utf-8"))["combinations"]
    assert ("samples", 16) in {
        (row["combination"]["kind"], row["combination"]["decodings"]) for row in combined["rows"]
    }
    assert "⊕MBR" in printed[-4]


def test_commands_of_the_7b_model_compose(workplace: Workplace) -> None:
    section = commands("From download to merge")
    assert len(section) >= 2
    (workplace.folder / "my" / "data").mkdir(parents=True)
    (workplace.folder / "my" / "data" / "data.yaml").write_text(data_file_text(["train", "eval"]), encoding="utf-8")
    for words in section:
        assert words[:2] == ["python", "-m"], words
        said = workplace.succeed(words[2], *words[3:], "--cfg", "job")
        assert "path: moonshotai/Kimi-Audio-7B-Instruct" in said
        assert "dtype: bfloat16" in said


def test_commands_of_clusters_compose(workplace: Workplace) -> None:
    (workplace.folder / "my" / "data").mkdir(parents=True)
    (workplace.folder / "my" / "data" / "data.yaml").write_text(data_file_text(["train", "eval"]), encoding="utf-8")
    for words, executor in zip(commands("By an option"), ("slurm", "ray"), strict=True):
        first = [word.partition(",")[0] for word in words[3:] if word != "-m"]
        assert f"executor: {executor}" in workplace.succeed(words[2], *first, "--cfg", "hydra")


WITH_COMMANDS = ("data", "recogniser", "hydra", *PAGES)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}.md" for name in WITH_COMMANDS)])
def test_commands_are_the_same_in_bash_and_zsh(page: str) -> None:
    """zsh takes unquoted brackets and ? for patterns, expands no ~ behind = and splits no $NAME into words."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    for line in (line for block in blocks for line in re.sub(r"'[^']*'|\"[^\"]*\"", "", block).splitlines()):
        assert not re.search(r"[][?{}()$]|=~", line), line


def test_every_other_command_exists() -> None:
    from wandb.cli.cli import cli as wandb

    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for given in commands():
        words = [word for word in given if not re.match(r"[A-Z_]+=", word)]  # without variables in front
        if words[0] == "make":
            assert set(words[1:]) <= set(targets), words
        elif words[0] == "wandb":
            assert words[1] in wandb.commands, words
        elif words[0] not in ("cp", "kill", "pip"):
            assert words[0] == "source" or words[:2] in (["python", "-m"], ["python", "-c"]), words


def test_the_front_page_is_short() -> None:
    assert len(README.split()) <= 900 and max(map(len, README.splitlines())) <= 200


def test_pages_are_linked_both_ways() -> None:
    docs = sorted(path.name for path in (REPOSITORY / "docs").glob("*.md"))
    assert set(re.findall(r"\]\(docs/([\w.]+\.md)\)", README)) == set(docs)
    for name in docs:
        text = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
        assert "](../README.md)" in text, f"docs/{name} has no way back"
        for link in re.findall(r"\]\(([\w./]+)\)", text):
            assert (REPOSITORY / "docs" / link).exists(), (name, link)


def test_named_files_exist() -> None:
    elsewhere = ("outputs/", "my/", "val/", "store/", "/", "moonshotai/", "THUDM/", "whisper-large-v3/")
    named = [span for span in spans() if re.fullmatch(r"[\w./-]+/[\w./-]*", span) and not span.startswith(elsewhere)]
    assert "kimi_audio_ft/config/commands.py" in named
    for name in named:
        assert (REPOSITORY / name).exists(), name


def test_named_options_of_hydra_s_plugins_exist() -> None:
    engine = {"hydra.launcher": LauncherConfig, "hydra.sweeper": HalvingConfig}
    named = {key for span in spans() for key in re.findall(r"^(hydra\.(?:launcher|sweeper)\.[\w.]+)", span)}
    assert {"hydra.launcher.pack_size", "hydra.sweeper.rungs"} <= named
    for key in named:
        prefix = ".".join(key.split(".")[:2])
        assert key.removeprefix(f"{prefix}.") in option_names(engine[prefix]), key


def test_named_options_exist() -> None:
    options = {
        name
        for schema in (TrainConfig, EvaluateConfig, TokenizeConfig, TranscribeConfig)
        for name in option_names(schema)
    }
    groups = {path.name for path in (REPOSITORY / "conf").iterdir() if path.is_dir()}
    keys = [match for span in spans() for match in re.findall(r"^\+?([a-z][\w.]*)(?:=|$)", span)]
    dotted = [key for key in keys if key.split(".")[0] in groups and "." in key]
    assert "lora.use_rslora" in dotted and "data.max_batch_tokens" in dotted
    for key in dotted:
        if key.startswith(OPEN):
            continue
        assert key in options or any(option.startswith(f"{key}.") for option in options), key
    choices = [
        (group, choice)
        for span in spans()
        for group, choice in re.findall(r"^(\w+)=(\w+)", span)
        if group in groups and not span.startswith("data=my/")
    ]
    assert ("logger", "wandb") in choices
    for group, choice in choices:
        assert (REPOSITORY / "conf" / group / f"{choice}.yaml").is_file(), (group, choice)


def test_named_options_of_prepare_exist() -> None:
    options = option_names(PrepareConfig)
    for words in commands():
        if words[:3] == ["python", "-m", "kimi_audio_ft.prepare"]:
            for argument in words[3:]:
                assert argument.partition("=")[0] in options
    assert {"group_column", "group_pattern"} <= set(options)


HELPED = [
    *("kimi_audio_ft.prepare", "kimi_audio_ft.tokenize", TRAIN, "kimi_audio_ft.evaluate", "kimi_audio_ft.merge"),
    *(TRANSCRIBE, "kimi_audio_ft.serve"),
    *("kimi_audio_ft.store", "multirun_analysis", "multirun_analysis.labels", "multirun_analysis.wandb_view"),
]
# Each in a process of its own, forked from one that has imported Hydra: a tenth of what the help of `train` takes.
HELPS = """
import os, runpy, sys, time
import hydra, omegaconf
beside = time.process_time()
for module in sys.argv[1:]:
    if number := os.fork():
        assert os.waitpid(number, 0)[1] == 0, module
        continue
    sys.argv = [module, "--help"]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        assert not end.code, end.code
    heavy = {*"torch transformers pytorch_lightning peft wandb ray altair pandas scipy soundfile".split()}
    assert not heavy & set(sys.modules), heavy & set(sys.modules)
    used = time.process_time()  # since the fork
    assert used < MOST * beside, f"{module}: {used:.2f} s of the processor, {beside:.2f} s to import Hydra"
    sys.stdout.flush()
    os._exit(0)
"""


def test_help_is_quick_and_imports_no_heavy_library(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELPS.replace("MOST", "15"), *HELPED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    for module in HELPED:
        assert f"python -m {module}" in done.stdout
    assert "audio_column" in done.stdout and list(tmp_path.iterdir()) == []
