"""README.md and docs/ are short, linked and true: what they name exists. Their commands: test_pages.py."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from kimi_audio_ft.cli import OPEN, option_names
from kimi_audio_ft.config.data_file import DATA_FILE
from kimi_audio_ft.config.launcher import HalvingConfig, LauncherConfig, ListedConfig
from kimi_audio_ft.config.schemas import SCHEMAS
from kimi_audio_ft.files import read_jsonl
from tests.integration.conftest import REPOSITORY, Forked, Workplace
from tests.pages import FILES, TEXTS, commands, sections, spans
from tests.ports import reserved_port

README = TEXTS["README"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("openai") is None or find_spec("fastapi") is None, reason="the extra `serve` is missing")
def test_from_a_sweep_to_a_recogniser(workplace: Workplace, swept: Workplace) -> None:
    """Each command as it is typed after `make demo`, whose sweep is a smaller one here."""
    shutil.copytree(swept.store, workplace.store, dirs_exist_ok=True)
    of_base = shutil.ignore_patterns("baseline*")  # which four steps do not make worse than the adapter
    sweep = shutil.copytree(swept.folder / "first", workplace.folder / "outputs" / "demo" / "sweep", ignore=of_base)
    workplace.succeed("multirun_analysis", "outputs/demo/sweep")
    printed = list[str]()
    server: Forked | None = None
    with reserved_port() as port:
        try:
            for words in commands("README", "From the sweep to a recogniser"):
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


@pytest.mark.parametrize("page", [page for page in TEXTS if any(commands(page, one) for one in sections(page))])
def test_commands_are_the_same_in_bash_and_zsh(page: str) -> None:
    """zsh takes unquoted brackets and ? for patterns, expands no ~ behind = and splits no $NAME into words."""
    for block in re.findall(r"```bash\n(.*?)```", TEXTS[page], flags=re.DOTALL):
        for line in re.sub(r"'[^']*'|\"[^\"]*\"", "", block).splitlines():
            of_until = re.sub(r"\[ \$\? .*? \]", "", line)
            assert not re.search(r"[][?{}()$]|=~", of_until), line


def test_the_front_page_is_short() -> None:
    assert len(README.split()) <= 900 and max(map(len, README.splitlines())) <= 200


@pytest.mark.parametrize(
    ("row", "counted"),
    [
        ("laptop, 2 cores", "laptop, 2 cores | embedded"),
        ("RTX 4090", "RTX 4090 | nf4"),
        ("H100", "H100 80 GB | bfloat16"),
    ],
)
def test_times_and_costs_are_those_that_are_counted(row: str, counted: str) -> None:
    page = (REPOSITORY / "experiments" / "gpu_model.md").read_text(encoding="utf-8")
    (minutes, seconds, dollars) = re.findall(
        rf"^\| {re.escape(counted)} \|.*\| (\d+) min (\d+) s \| ?(\S*) \|$", page, flags=re.MULTILINE
    )[-1]
    time, cost = re.findall(rf"^\| {row}.*? \| ([\d.]+) min \| ?(\S*) ?\|", README, flags=re.MULTILINE)[0]
    decimals = len(time.partition(".")[2])
    assert float(time) == round(int(minutes) + int(seconds) / 60, decimals) and cost == dollars


def test_pages_are_linked_both_ways() -> None:
    docs = {path.name: TEXTS[page] for page, path in FILES.items() if page != "README"}
    assert set(re.findall(r"\]\(docs/([\w.]+\.md)\)", README)) == {*docs}
    for name, text in docs.items():
        assert "](../README.md)" in text, f"docs/{name} has no way back"
        for link in re.findall(r"\]\(([\w./]+)\)", text):
            assert (REPOSITORY / "docs" / link).exists(), (name, link)


def test_named_files_exist() -> None:
    elsewhere = ("outputs/", "my/", "val/", "store/", "/", "moonshotai/", "THUDM/", "whisper-large-v3/", "front_end/")
    elsewhere += ("combinations/", "halving/")
    paths = [span for span in spans() if re.fullmatch(r"[\w./-]+/[\w./-]*", span) and not re.search(r"[A-Z]{2}", span)]
    named = [path for path in paths if not path.startswith(elsewhere)]
    assert "kimi_audio_ft/config/commands.py" in named
    for name in named:
        assert any((folder / name).exists() for folder in (REPOSITORY, REPOSITORY / "kimi_audio_ft")), name


def test_named_options_of_hydra_s_plugins_exist() -> None:
    optuna = yaml.safe_load((REPOSITORY / "experiments" / "optuna.yaml").read_text(encoding="utf-8"))
    sweepers = {*option_names(ListedConfig), *option_names(HalvingConfig), *optuna["hydra"]["sweeper"]}
    engine = {"hydra.launcher": option_names(LauncherConfig), "hydra.sweeper": sweepers}
    named = {key for span in spans() for key in re.findall(r"^(hydra\.(?:launcher|sweeper)\.[\w.]+)", span)}
    assert {"hydra.launcher.pack_size", "hydra.sweeper.rungs", "hydra.sweeper.trials"} <= named
    for key in named:
        prefix = ".".join(key.split(".")[:2])
        option = key.removeprefix(f"{prefix}.")  # or a group of some, such as hydra.launcher.slurm
        assert any(f"{name}.".startswith(f"{option}.") for name in engine[prefix]), key


def test_named_options_exist() -> None:
    options = {name for schema in SCHEMAS.values() for name in option_names(schema)}
    groups = {path.name for path in (REPOSITORY / "conf").iterdir() if path.is_dir()}
    keys = [match for span in spans() for match in re.findall(r"^\+?([a-z][a-z0-9_.]*)(?:=|$)", span)]
    dotted = [key for key in keys if key.split(".")[0] in groups and "." in key and key != DATA_FILE]
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


HELPED = [
    *(f"kimi_audio_ft.{name}" for name in SCHEMAS),
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
