"""README.md and docs/ as a reader follows them: every command of every page is typed, in one folder, page by page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from configparser import ConfigParser
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from tests.clusters.demo import demo_commands
from tests.integration.conftest import Workplace
from tests.integration.test_studies import first_values
from tests.pages import REPOSITORY, TEXTS, commands, sections

# Sections whose commands another test types: its file and function.
ELSEWHERE = {
    ("README", "From the sweep to a recogniser"): ("test_readme.py", "test_from_a_sweep_to_a_recogniser"),
    ("recogniser", "A server"): ("test_serve.py", "server"),
}
# Sections whose commands need what no test has. Their configs are composed: options and values are those that exist.
COMPOSED = {
    ("7b", "From download to merge"): "the 7B, and GPUs",
    ("clusters", "By an option"): "Slurm or Ray, on which tests/slurm and test_ray_sweep.py run sweeps",
    ("recogniser", "Decoding by vLLM"): "vLLM, whose part tests/unit/decoding/test_vllm_process.py plays",
    ("recogniser", "A server on vLLM"): "vLLM; test_serve_vllm.py types them where there is one",
}
# Likewise commands with a word.
COMPOSED_WORDS = {
    "hydra.launcher.dry_run=true": "seconds of measuring; test_sweep.py has dry runs",
    "+experiments=optuna": "SQLAlchemy 2, which Optuna 2 cannot use, where that is installed",
}
# Programs that are not run: they set up, need a network or an account, or run these tests. `make demo` is composed; of
# the others targets, extras and subcommands exist.
NOT_RUN = ("make", "pip", "source", "wandb")
TRAIN = "kimi_audio_ft.train"
# So that a page's commands take seconds; nothing else about them is changed.
SHORTER = {
    TRAIN: (
        *("trainer.max_steps=2", "decoding.max_new_tokens=8", "trainer.progress=false", "logger=none"),
        "trainer.threads=0",  # one process for a sweep: two would start on cores that other tests use
    ),
    "kimi_audio_ft.evaluate": ("decoding.max_new_tokens=8", "trainer.progress=false"),
    "kimi_audio_ft.tokenize": ("progress=false",),
    "kimi_audio_ft.transcribe": ("decoding.max_new_tokens=8", "progress=false"),
    "kimi_audio_ft.prepare": ("max_refused=0.25",),  # 5 of the corpus's 20 rows are bad
}
# The same for commands that have a word.
FURTHER = {
    # Two training steps teach no words: many texts are empty, others have too many characters.
    "csv=my/sure/corrected.csv": ("max_refused=1", "max_chars_per_second=100"),
    "hydra/sweeper=halving": ("hydra.sweeper.rungs=[1]",),
    "+experiments=optuna": ("data=my/data", "hydra.sweeper.n_trials=1", "hydra.sweeper.n_jobs=1", "baseline=false"),
}
OF_SWEEPS = ("-m", "+experiments=optuna")
# Some of what a page's commands leave behind.
LEFT = {
    "getting_started": ("my/data/rejected.jsonl", "my/data/test.tokens.jsonl", "sweeps/0/trials.csv"),
    "verdict": ("my/labels/suspects.csv", "my/labels/labels.html"),
    "recogniser": ("my/corrected/train.jsonl", "my/lora/adapter_config.json", "my/qwen2/config.json"),
}
PAGES = ["getting_started", *(page for page in TEXTS if page != "getting_started")]


@dataclass
class Reader:
    """Who types commands, each once."""

    place: Workplace
    typed: list[list[str]] = field(default_factory=list)
    sweeps: list[str] = field(default_factory=list)

    def follow(self, page: str) -> None:
        """Type what is on a page."""
        for section in sections(page):
            for words in commands(page, section):
                if (page, section) in COMPOSED or any(map(is_composed, words)):
                    self.compose(words)
                elif (page, section) not in ELSEWHERE and words not in self.typed:
                    self.typed.append(words)
                    self.type([word for word in words if not re.match(r"[A-Z_]+=", word)])

    def type(self, words: list[str]) -> None:
        if words[0] == "cp":
            shutil.copyfile(*(self.place.folder / name for name in words[1:]))
        elif words[0] == "eval":
            self.complete(*words[1:])
        elif words[0] == "until":
            assert in_bash("python() { ((++calls == 3)) || return 75; }", " ".join(words), "echo $calls") == "3\n"
        elif words == ["make", "demo"]:
            for _, module, *arguments in demo_commands()[1:]:
                self.place.succeed(module, *arguments, "--cfg", "job")
        elif words[0] in NOT_RUN:
            assert is_there(words), words
        else:
            assert words[:2] == ["python", "-m"], words
            self.run(words[2], *(re.sub("SIGNATURE|SWEEP_FOLDER", self.named, word) for word in words[3:]))

    def run(self, module: str, *arguments: str) -> None:
        further = [option for word in arguments for option in FURTHER.get(word, ())]
        if any(word in arguments for word in OF_SWEEPS) and not any("hydra.sweep.dir" in word for word in arguments):
            self.sweeps.append(f"sweeps/{len(self.sweeps)}")  # not that of another one in the same second
            further.append(f"hydra.sweep.dir={self.sweeps[-1]}")
        self.place.succeed(module, *arguments, *SHORTER.get(module, ()), *further)

    def named(self, found: re.Match[str]) -> str:
        """What a reader puts in the place of a name: the first sweep, or an adapter."""
        if found[0] == "SWEEP_FOLDER":
            return self.sweeps[0]
        listed = json.loads(self.place.succeed("kimi_audio_ft.store", "ls", "--json"))
        return str(next(row["signature"] for row in listed if row["kind"] == "adapter"))

    def compose(self, words: list[str]) -> None:
        """Have the config of a command shown, of a sweep that of its first trial."""
        if words[1:3] == ["-m", "venv"] or words[0].startswith("vllm_env/"):
            return
        first = first_values([word for word in words[3:] if word != "-m"])
        shown = "all" if any(option.startswith("hydra.") for option in first) else "job"
        said = self.place.succeed(words[2], *first, "--cfg", shown)
        for option in first:
            key, _, value = option.partition("=")
            assert "." not in key or re.search(rf"\b{key.rpartition('.')[2]}: '?{re.escape(value)}'?\n", said), option
        if "model=kimi_audio_7b_instruct" in words:
            assert "path: moonshotai/Kimi-Audio-7B-Instruct\n" in said and "dtype: bfloat16\n" in said

    def complete(self, substitution: str) -> None:
        """Have bash read the line that makes Tab complete a program's options."""
        program, *flags = re.sub(r"\$\((.*)\)", r"\1", substitution).split()
        assert program == "kimi-audio-ft-train"
        (self.place.folder / "completion").write_text(self.place.succeed(TRAIN, *flags), encoding="utf-8")
        stand_in = f"{program}() {{ cat '{self.place.folder}/completion'; }}"
        assert in_bash(stand_in, f'eval "{substitution}"', f"complete -p {program}").split()[-1] == program


def is_composed(word: str) -> bool:
    """Whether commands with this word are only composed here."""
    if word == "+experiments=optuna":
        try:
            return int(version("sqlalchemy").partition(".")[0]) >= 2
        except PackageNotFoundError:
            return False
    return word in COMPOSED_WORDS


def in_bash(*lines: str) -> str:
    """What these lines print."""
    return subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=True).stdout


def is_there(words: list[str]) -> bool:
    """Whether a command that is not run names a target, an extra or a subcommand that exists."""
    from wandb.cli.cli import cli as wandb

    setup = ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    extras = [f".[{name}]" for name in setup["options.extras_require"]]
    return {
        "make": set(words[1:]) <= set(targets),
        "pip": words[1:3] == ["install", "-e"] and words[-1] in extras,
        "source": words[1:] == [".venv/bin/activate"],
        "wandb": words[1] in wandb.commands,
    }[words[0]]


@pytest.fixture(scope="module")
def reader(corpus: Path, place: Workplace) -> Reader:
    """Who has followed docs/getting_started.md, and has the files that other pages speak of."""
    shutil.rmtree(place.store)
    folder = shutil.copytree(corpus, place.folder / "my")
    reader = Reader(place)
    reader.follow("getting_started")
    shutil.copytree(folder / "data", folder / "other")
    (folder / "new_terms.txt").write_text("沈嘉睿\n市盈率\n", encoding="utf-8")
    of_hydra = sections("hydra")
    for block in re.findall(r"```yaml\n(#.*?)```", of_hydra["Your own configs"], flags=re.DOTALL):
        (name,) = re.findall(r"# (my/[\w/]+\.yaml)", block)
        file = place.folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(block, encoding="utf-8")
    (rows,) = re.findall(r"```text\n(.*?)```", of_hydra["Lists of trials"], flags=re.DOTALL)
    (folder / "trials.csv").write_text(rows, encoding="utf-8")
    return reader


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_typed(reader: Reader, page: str) -> None:
    reader.follow(page)
    for name in LEFT.get(page, ()):
        assert (reader.place.folder / name).is_file(), name


def test_what_is_typed_elsewhere_or_only_composed_is_on_the_pages() -> None:
    for page, section in [*ELSEWHERE, *COMPOSED]:
        assert commands(page, section), (page, section)
    for (page, section), (file, function) in ELSEWHERE.items():
        text = (REPOSITORY / "tests" / "integration" / file).read_text(encoding="utf-8")
        body = re.split(rf"^def {function}\(", text, flags=re.MULTILINE)[1]
        assert f'commands("{page}", "{section}")' in body.partition("\ndef ")[0]
