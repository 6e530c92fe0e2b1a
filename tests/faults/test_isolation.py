"""Faults of single trials and of the store: each stays with what it hit, says what is wrong, and costs nothing else."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Undisturbed
from tests.faults.sweeps import SWEPT, Place
from tests.sameness import assert_same_adapters, assert_same_results

pytestmark = pytest.mark.slow

RANKS, RATE, COLD = "lora.r=2,4,8", "optim.lr=1e-3", "decoding.text_temperature=0.0"
# Where the base alone would only be one more process.
NO_BASE = "baseline=false"
# As large as 2^31 rows of 128 numbers: more than the address space that USER_CODE leaves.
HUGE = 2**31

# A person's own code, a callback in the process that starts the sweep's workers, which are forked from it here: it
# makes one adapter's training go wrong when that adapter's first file is written. Faults are "lora.r:what" in FAULTS.
USER_CODE = """
import json, os, resource, signal, sys

from hydra.experimental.callback import Callback

_FAULTS = dict(fault.split(":") for fault in os.environ["FAULTS"].split())


def _watch(event, arguments):
    if event != "open" or not str(arguments[0]).endswith("adapter_config.json") or "/.a" not in str(arguments[0]):
        return
    with_rank = sys._getframe(1)
    while with_rank is not None and with_rank.f_code.co_name != "save_adapter":
        with_rank = with_rank.f_back
    if with_rank is None:
        return
    own = with_rank.f_locals
    fault = _FAULTS.get(str(own["model"].peft_config[own["name"]].r))
    if fault == "raises":
        raise RuntimeError("the person's code is broken")
    if fault == "exits":
        sys.exit("the person's code has had enough")
    if fault == "dies" or (fault == "dies-once" and not os.path.exists("killed")):
        os.makedirs("killed", exist_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)


class User(Callback):
    def on_multirun_start(self, **kwargs):
        resource.setrlimit(resource.RLIMIT_AS, (64 << 30, 64 << 30))
        sys.addaudithook(_watch)
"""


def scores(place: Place) -> dict[int, float]:
    """CER of every scored trial of the sweep, by number."""
    files = (place.folder / "sweep").glob("*/scores.json")
    return {int(file.parent.name): json.loads(file.read_text(encoding="utf-8"))["cer"] for file in files}


def failures(place: Place) -> dict[int, dict[str, Any]]:
    """What is written of every failed trial, by number."""
    files = (place.folder / "sweep").glob("*/failure.json")
    return {int(file.parent.name): json.loads(file.read_text(encoding="utf-8")) for file in files}


def user_code_in(place: Place) -> str:
    """The override by which sweeps in a place run USER_CODE."""
    (place.folder / "user_code.py").write_text(USER_CODE, encoding="utf-8")
    return "+hydra.callbacks.user._target_=user_code.User"


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def test_faulty_trials_fail_alone(new_place: Callable[..., Place]) -> None:
    """Of six that train together two are sound; the others raise, exit, die or need too much memory."""
    place = new_place()
    overrides = (f"lora.r=2,3,5,6,8,{HUGE}", "lora.lora_alpha=4", COLD, NO_BASE, "hydra.launcher.pack_size=8")
    done = place.start(*overrides, user_code_in(place), FAULTS="3:raises 5:exits 6:dies").wait()
    assert done.code != 0, done.said
    failed = failures(place)
    assert sorted(scores(place)) == [0, 4] and sorted(failed) == [1, 2, 3, 5], done.said
    assert len(place.products("adapter")) == 2 and place.damaged() == []
    assert "the person's code is broken" in failed[1]["message"]
    for number in (2, 3):
        assert "killed the process" in failed[number]["message"] and "packs.log" in failed[number]["message"]
    assert "signal SIGKILL" in failed[3]["message"]
    assert "the person's code has had enough" in (place.folder / "sweep" / "packs.log").read_text(encoding="utf-8")
    assert f"lora.r={HUGE}: out of memory" in failed[5]["message"] and "Lower" in failed[5]["message"]
    for number, failure in failed.items():
        first_line = failure["message"].splitlines()[0]
        assert first_line in (place.folder / "sweep" / str(number) / "train.log").read_text(encoding="utf-8")
        assert first_line in done.said


def test_an_exploding_loss_and_a_killed_worker(new_place: Callable[..., Place], undisturbed: Undisturbed) -> None:
    """The process that has trained all is killed once, as it writes an adapter; some would fail in any case."""
    place = new_place()
    grid = ("lora.r=2,4", "optim.lr=1e-3,1e30", COLD, "hydra.launcher.pack_size=4", "hydra.launcher.parallel=1")
    done = place.start(*grid, user_code_in(place), FAULTS="2:dies-once").wait()
    assert done.code == 2 and (place.folder / "killed").exists(), done.said
    found, failed = scores(place), failures(place)
    rates = undisturbed.rates()
    assert_same_results(found, {0: rates[2], 2: rates[4]})
    assert sorted(failed) == [1, 3]
    assert all(f["error_type"] == "TrainingFailed" and "Lower optim.lr" in f["message"] for f in failed.values())
    assert "died" in done.said and "signal SIGKILL" in done.said, done.said
    assert place.damaged() == []


def test_damaged_products_are_found_and_made_again(new_place: Callable[..., Place], undisturbed: Undisturbed) -> None:
    place = new_place(undisturbed.place)
    before = {kind: place.products(kind) for kind in ("adapter", "transcript")}
    names = {trial["params"]["lora.r"]: trial for trial in undisturbed.trials}
    bad, [torn] = names[2]["signature"], names[4]["transcript_signatures"]
    flip_a_bit(place.store / "adapter" / bad / "adapter_model.safetensors")
    flip_a_bit(place.store / "transcript" / torn / "transcripts.jsonl")
    done = place.sweep(*SWEPT)
    assert done.code == 0, done.said
    for path in (f"adapter/{bad}", f"transcript/{torn}"):
        assert f"{path} is corrupted: the sha256 of" in done.said, done.said
    assert sorted(name.split(".")[1].removeprefix("corrupt-") for name in place.set_aside()) == sorted([bad, torn])
    assert_same_results(place.trials(), undisturbed.trials)
    assert_same_adapters(place.store, undisturbed.place.store)
    for kind, again in (("adapter", bad), ("transcript", torn)):
        changed = {name for name, made in place.products(kind).items() if before[kind][name] != made}
        assert changed == {again}, "and nothing else"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system with these options, or mounts it again with others; skips where that is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        again = "remount," if place.is_mount() else ""
        command = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a disk cannot be mounted here: {done.stderr}")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


def kib_in(folder: Path) -> int:
    return int(subprocess.run(["du", "-sk", str(folder)], capture_output=True, text=True, check=True).stdout.split()[0])


def test_a_full_disk_then_one_that_can_only_be_read(
    new_place: Callable[..., Place], undisturbed: Undisturbed, disk: Callable[[str], Path]
) -> None:
    place, rates = new_place(store=disk("size=64m")), undisturbed.rates()
    # Room for one or two adapters and their trainings.
    disk(f"size={kib_in(place.store) + 700}k")
    full = place.sweep(RANKS, RATE, COLD, NO_BASE, "hydra.launcher.pack_size=1")
    assert full.code == 2, full.said
    failed = failures(place)
    assert failed and all("disk is full" in failure["message"] for failure in failed.values()), full.said
    assert "KIMI_AUDIO_FT_STORE" in full.said and "Traceback" not in full.said
    assert place.damaged() == [] and not list(place.store.glob("*/.*.draft"))
    before = place.products("adapter")

    disk("size=64m")
    done = place.sweep(RANKS, RATE, COLD, NO_BASE)
    assert done.code == 0, done.said
    assert_same_results(scores(place), dict(enumerate(rates.values())))
    assert {name: place.products("adapter")[name] for name in before} == before

    disk("ro")
    wider = place.sweep(f"{RANKS},16", RATE, COLD, NO_BASE)
    assert wider.code == 2, wider.said
    assert_same_results(scores(place), dict(enumerate(rates.values())))  # what the store has is scored
    assert list(failures(place)) == [3] and "Traceback" not in wider.said
    assert "KIMI_AUDIO_FT_STORE" in wider.said and "cannot be written (Read-only file system)" in wider.said
