"""Fixtures that every test may use."""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Several test processes on two cores crawl with two OpenMP threads each; one thread also makes sums repeatable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
# Hub ids are never looked up, neither in the network nor in what this machine's user has downloaded.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_CACHE"] = str(Path(tempfile.gettempdir()) / "kimi_audio_ft_tests" / "hub")

import pytest
from filelock import FileLock

# Modules whose assertions are to say what differs, as those of test files do.
pytest.register_assert_rewrite("tests.sameness", "tests.numerics.closeness", "tests.faults.sweeps")

if TYPE_CHECKING:
    from torch import Tensor

    from kimi_audio_ft.config.train import TrainConfig
    from tests.standin import Standin
    from tests.wandb_server import WandbServer

REPOSITORY = Path(__file__).resolve().parent.parent
# Folders of tests in the order in which they begin: what takes longest first, so that no process idles at the end.
ORDER = ("faults", "slurm", "integration", "numerics")


def pytest_configure() -> None:
    """Take what `nohup` and a shell's `&` have ignored, for the processes too that the tests start and interrupt."""
    for number, default in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, default)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[object]:
    """Without looking for garbage in what is imported, now or at every later collection."""
    gc.disable()
    try:
        with compiled_once(session.config):
            return (yield)
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def compiled_once(config: pytest.Config) -> Iterator[None]:
    """In a fresh checkout the first test process imports alone: at the same time each would compile everything."""
    if "PYTEST_XDIST_WORKER" in os.environ and not (REPOSITORY / "tests" / "unit" / "__pycache__").is_dir():
        folder = Path(config.option.basetemp).parent  # every process has a folder of its own below it
        compiled = folder / "compiled"
        with FileLock(folder / "compiled.lock"):
            if not compiled.exists():
                yield
                compiled.touch()
                return
    yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose tests start processes, then those with slow tests; within a file nothing moves."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def place(item: pytest.Item) -> tuple[int, bool]:
        room = item.path.relative_to(REPOSITORY / "tests").parts[0]
        return ORDER.index(room) if room in ORDER else len(ORDER), item.path not in slow

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def forked() -> None:
    """Workers need not import everything anew, wherever a test starts some."""
    from tests.forkserver import fork_workers

    fork_workers()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Makes a folder once for all test processes: the first that asks makes it, others wait. Only to be read."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # every process has a folder of its own below it

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        folder, complete = root / name, root / f"{name}.complete"
        with FileLock(root / f"{name}.lock"):
            if not complete.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process in which filling it failed
                folder.mkdir()
                fill(folder)
                complete.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of real recordings and golden data that lies beside the checkout; the product never needs it.

    Inside the checkout it serves too: a GPU machine may be given a copy of the checkout and nothing beside it.
    """
    folders = (REPOSITORY.parent / "shared", REPOSITORY / "shared")
    for folder in folders:
        if folder.is_dir():
            return folder
    pytest.skip(f"no shared test data at {folders[0]}")


@pytest.fixture(scope="session")
def golden(shared_dir: Path) -> Path:
    """Folder of the numbers recorded from the published code (float32, on a CPU)."""
    return shared_dir / "golden"


@pytest.fixture(scope="session")
def waveforms(golden: Path) -> dict[str, Tensor]:
    """The recorded clips, float32 in [-1, 1]."""
    from safetensors.torch import load_file

    return {name: samples / 32768 for name, samples in load_file(golden / "audio.safetensors").items()}


@pytest.fixture(autouse=True)
def private_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every test has a store of its own, and the file mode mask and collection of garbage of a fresh process.

    Commands take the mask of their store, and a sweep's process collects seldom.
    """
    root, mask, often = tmp_path / "store", os.umask(0o022), gc.get_threshold()
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(root))
    yield root
    os.umask(mask)
    gc.set_threshold(*often)


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Standin:
    """The embedded model in the published 7B's layout, shared by a session: copy it before changing a file."""
    from tests.standin import write_standin

    return write_standin(tmp_path_factory.mktemp("standin"))


@pytest.fixture(scope="session")
def coded_manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of ``train.jsonl`` (16) and ``eval.jsonl`` (9): random codes of the tiny model, without recordings.

    With ``data.features=none`` they train and decode at once; lengths and answers are ragged.
    """
    from kimi_audio_ft.model.checkpoint import read_config
    from kimi_audio_ft.paths import TINY_MODEL

    folder, rng, config = tmp_path_factory.mktemp("coded"), random.Random(3), read_config(TINY_MODEL)
    words = ["你好", "今天", "会议", "开始", "我们", "讨论", "下一个", "问题", "谢谢", "大家", "5G", "七千万"]
    for name, count in (("train", 16), ("eval", 9)):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for index in range(count):
                codes = [rng.randrange(config.kimia_token_offset, config.vocab_size) for _ in range(rng.randint(3, 20))]
                answer = "".join(rng.choices(words, k=rng.randint(1, 5)))
                conversation = [
                    {"role": "user", "message_type": "text", "content": "转录"},
                    {"role": "user", "message_type": "audio", "audio_tokens": codes},
                    {"role": "assistant", "message_type": "text", "content": answer},
                ]
                line = {"id": f"{name}{index}", "task_type": "understanding", "conversation": conversation}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return folder


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Fields of ``AugmentConfig`` for two noises and two rooms."""
    import numpy as np
    import soundfile

    folder, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(9)
    for name in ("noise", "rooms"):
        (folder / name).mkdir()
    for number, samples in enumerate((7000, 40000)):
        soundfile.write(folder / "noise" / f"{number}.wav", rng.normal(0, 0.1, samples), 16000)
        response = [1.0, *rng.normal(0, 0.1, 3000) * np.exp(-np.arange(3000) / 300)]
        soundfile.write(folder / "rooms" / f"{number}.wav", response, 16000, subtype="FLOAT")
    return {"noise_folder": str(folder / "noise"), "room_folder": str(folder / "rooms")}


@pytest.fixture(scope="session")
def trial_config(coded_manifests: Path) -> Callable[..., TrainConfig]:
    """Makes a small trial's config; arguments are the fields to change: ``trial_config(lora={"r": 4}, seed=2)``."""
    from kimi_audio_ft.config import train as schema

    defaults: dict[str, dict[str, Any]] = {
        "data": {
            "train_manifest": str(coded_manifests / "train.jsonl"),
            "eval_manifest": str(coded_manifests / "eval.jsonl"),
            "features": "none",
            "batch_size": 2,
        },
        "model": {"path": "tiny", "dtype": "float32"},
        "lora": {"r": 2, "lora_dropout": 0.1},
        "optim": {"lr": 3e-3},
        "decoding": {"max_new_tokens": 8},
        "trainer": {"accelerator": "cpu", "max_epochs": 2, "accumulate": 2, "log_every": 1, "progress": False},
        "logger": {"kind": "none"},
    }
    classes = {name: getattr(schema, f"{name.capitalize()}Config") for name in defaults}

    def make(**changes: Any) -> TrainConfig:
        groups = {name: classes[name](**fields | changes.pop(name, {})) for name, fields in defaults.items()}
        return schema.TrainConfig(**groups, **changes)

    return make


@pytest.fixture
def disk_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Path]]:
    """Mounts a real file system of some KiB and puts the store there; skips where mounting is not allowed."""
    with ExitStack() as mounted:

        def mount(kib: int) -> Path:
            place = tmp_path / f"disk_of_{kib}k"
            place.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place)]
            try:
                subprocess.run(command, capture_output=True, text=True, check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"a small disk cannot be mounted here: {getattr(error, 'stderr', error)}")
            mounted.callback(subprocess.run, ["umount", str(place)], check=True)
            monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(place))
            return place

        yield mount
        gc.collect()  # an error's traceback may still hold a file of the disk


@pytest.fixture(scope="session")
def loopback_wandb() -> Iterator[WandbServer]:
    """A server that takes W&B runs, for the whole session."""
    from tests.wandb_server import WandbServer

    server = WandbServer()
    yield server
    server.close()


@pytest.fixture
def wandb_server(loopback_wandb: WandbServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """That server, empty, and logged in to by this process."""
    import wandb

    from kimi_audio_ft.runtime.wandb_server import set_offline
    from tests.wandb_server import settings_of

    wandb.teardown()  # its service has read other variables
    loopback_wandb.reset()
    for name, value in settings_of(loopback_wandb).items():
        monkeypatch.setenv(name, value)
    yield loopback_wandb
    loopback_wandb.gone, loopback_wandb.refuses, loopback_wandb.before = False, 0, lambda: None
    wandb.teardown()
    set_offline(False)
