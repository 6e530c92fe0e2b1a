"""Real offline W&B runs, read back from their files; what depends on a login runs in processes of its own."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
import textwrap
import wave
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.cli.cli import cli

from kimi_audio_ft.config.train import LoggerConfig
from kimi_audio_ft.runtime.wandb_server import resolve_mode, set_offline
from kimi_audio_ft.sweep_folder import clear_trial
from kimi_audio_ft.tracking import Tracker, continue_record, make_tracker
from kimi_audio_ft.tracking.wandb import (
    TOKEN,
    _logger_of,
    facts_of,
    record_sweep,
    summary_of,
    table_cell,
    table_columns,
)
from tests.offline_wandb import offline_runs, read_run
from tests.wandb_server import WandbServer

CONFIG = {
    "lora": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    "optim": {"lr": 1e-3},
    "decoding": {"text_temperature": 0.3},
    "seed": 7,
}
UTTERANCES = [
    {"id": "a", "repeat": 0, "reference": "你好", "hypothesis": "你好", "cer": 0.0, "audio": None},
    {"id": "b", "repeat": 0, "reference": "七千万", "hypothesis": "", "cer": 1.0, "audio": None},
    {"id": "c", "repeat": 0, "reference": "所有LPL", "hypothesis": "所有LP", "cer": 0.2, "audio": None},
    {"id": "d", "repeat": 0, "reference": "好", "hypothesis": "", "cer": 1.0, "audio": None},
]


def tracker_in(folder: Path, name: str = "lora.r=8", config: dict[str, Any] = CONFIG, **settings: Any) -> Tracker:
    logger = LoggerConfig(**{"project": "unit-tests", "tags": ["demo"], "utterance_rows": 100, **settings})
    return make_tracker(logger, trial_name=name, group="sweep-1", config=config, folder=folder)


def run_trial(folder: Path, name: str = "lora.r=8", **settings: Any) -> None:
    tracker = tracker_in(folder, name, **settings)
    for step in (50, 100, 150):
        tracker.log({"train/loss": 100 / step, "train/lr": 1e-3}, step)
    tracker.log({"val/loss": 0.5}, 100)  # an earlier step again, as when a reused adapter's curves are replayed
    tracker.finish({"cer": 0.4, "exact_match": 1 / 3, "normalised": {"cer": 0.3}, "signature": "ab"}, UTTERANCES)


def test_an_offline_run_holds_config_curves_scores_and_transcripts(tmp_path: Path) -> None:
    run_trial(tmp_path, utterance_rows=3)
    (stored,) = offline_runs(tmp_path)
    assert (stored.run.project, stored.run.display_name, stored.run.run_group) == ("unit-tests", "lora.r=8", "sweep-1")
    assert list(stored.run.tags) == ["demo"] and stored.run.job_type == "trial"
    assert stored.config["lora"] == CONFIG["lora"]
    flat = {"lora.r": 8, "optim.lr": 1e-3, "decoding.text_temperature": 0.3, "seed": 7}
    assert {key: stored.config[key] for key in flat} == flat
    assert stored.curve("train/loss") == [(50, 2.0), (100, 1.0), (150, 100 / 150)]
    assert stored.curve("val/loss") == [(100, 0.5)]
    curves = ("epoch", "halving/*", "train/*", "train/loss", "val/*", "val/loss")
    assert stored.step_metrics == dict.fromkeys(curves, "step")
    assert stored.summary["train/loss"] == {"min": 100 / 150, "last": 100 / 150}
    assert stored.summary["cer"] == 0.4 and stored.summary["exact_match"] == 1 / 3
    assert stored.summary["cer_normalised"] == 0.3 and "signature" not in stored.summary
    assert stored.summary["rate"] == 0.4 and "trial_number" not in stored.config
    assert stored.config["record"] == {"signature": "ab"} and stored.config["record.signature"] == "ab"
    table = stored.table("utterances")
    assert table["columns"] == ["id", "repeat", "reference", "hypothesis", "cer"]
    # The worst come first, and equal ones keep their order.
    assert table["data"] == [["b", 0, "七千万", "", 1.0], ["d", 0, "好", "", 1.0], ["c", 0, "所有LPL", "所有LP", 0.2]]
    assert stored.exit_code == 0


def test_a_long_run_is_read_back_across_blocks(tmp_path: Path) -> None:
    tracker = tracker_in(tmp_path, config={"note": "x" * 100_000}, utterance_rows=0)
    for step in range(1000):
        tracker.log({"train/loss": step / 2}, step)
    tracker.finish({"cer": 0.0}, UTTERANCES)
    (stored,) = offline_runs(tmp_path)
    assert stored.config["note"] == "x" * 100_000
    assert stored.curve("train/loss") == [(step, step / 2) for step in range(1000)]
    assert not any(key.startswith("utterances") for key in stored.summary)


def test_a_trial_has_its_number_and_the_rate_that_ranks_it(tmp_path: Path) -> None:
    scores = {"cer": 0.4, "normalised": {"cer": 0.3}, "rank_by": "normalised_cer"}
    tracker_in(tmp_path / "12").finish(scores, [])
    (stored,) = offline_runs(tmp_path / "12")
    assert (stored.config["trial_number"], stored.summary["rate"]) == (12, 0.3)


def test_a_run_has_the_same_id_when_its_trial_is_repeated(tmp_path: Path) -> None:
    for changes in ({}, {"seed": 7}, {"logger": {"audio": True}}, {"seed": 8}):
        tracker_in(tmp_path / "0", config={**CONFIG, **changes}).fail("interrupted")
    (last,) = offline_runs(tmp_path / "0")
    before = [read_run(path) for path in sorted((tmp_path / "0").glob(".wandb-before-*/offline-run-*"))]
    ids = [stored.run.run_id for stored in before]
    assert len(ids) == 3 and len({*ids}) == 1 and last.run.run_id not in ids


def test_points_are_recorded_once(tmp_path: Path) -> None:
    """As when a training is resumed, or its curves are replayed after it was followed live."""
    tracker = tracker_in(tmp_path)
    for step in (1, 2, 1, 2, 3):
        tracker.log({"train/loss": float(step), "epoch": step / 2}, step)
    tracker.log({"val/loss": 4.0, "epoch": 1.0}, 2)
    tracker.finish({"cer": 0.0}, [])
    (stored,) = offline_runs(tmp_path)
    assert stored.curve("train/loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert stored.curve("epoch") == [(1, 0.5), (2, 1.0), (3, 1.5)] and stored.curve("val/loss") == [(2, 4.0)]


def adapter_in(folder: Path) -> Path:
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "data.json"):
        (folder / name).write_text(name)
    return folder


def online_in(folder: Path, **settings: Any) -> Tracker:
    return tracker_in(folder, system_metrics=False, **settings)


def test_a_run_online_is_complete_when_it_is_finished(tmp_path: Path, wandb_server: WandbServer) -> None:
    tracker = online_in(tmp_path / "12", adapter=True)
    tracker.log({"train/loss": 3.0, "train/grad_norm": 0.5}, 1)
    (run,) = wandb_server.runs.values()
    wandb_server.wait_for(lambda: run.history)
    assert run.exit_code is None and run.curve("train/grad_norm") == [(1, 0.5)], "a point arrives while it runs"
    tracker.keep_adapter(adapter_in(tmp_path / "adapter"), "ab12")
    tracker.log({"train/loss": 2.0}, 2)
    tracker.finish({"cer": 0.4, "normalised": {"cer": 0.3}, "signature": "ab12"}, UTTERANCES)
    assert (run.project, run.facts["displayName"], run.facts["groupName"]) == ("unit-tests", "12: lora.r=8", "sweep-1")
    assert (run.facts["jobType"], run.facts["tags"], run.exit_code) == ("trial", ["demo"], 0)
    wanted = {"lora": CONFIG["lora"], "lora.r": 8, "trial_number": 12, "record.signature": "ab12"}
    assert {key: run.config[key] for key in wanted} == wanted
    assert run.curve("train/loss") == [(1, 3.0), (2, 2.0)]
    assert (run.summary["rate"], run.summary["cer_normalised"], run.summary["train/loss"]["min"]) == (0.4, 0.3, 2.0)
    files = wandb_server.artifacts["adapter-ab12"]
    assert files["adapter_model.safetensors"] == b"adapter_model.safetensors" and "data.json" not in files
    table = json.loads(wandb_server.artifacts[f"run-{run.id}-utterances"]["utterances.table.json"])
    assert [row[0] for row in table["data"]] == ["b", "d", "c", "a"]
    assert not wandb_server.unknown


def test_a_run_that_goes_on_online_has_not_failed_and_gets_no_point_again(
    tmp_path: Path, wandb_server: WandbServer
) -> None:
    rows = [{"train/loss": 3.0, "epoch": 0.5}, {"train/loss": 2.0, "epoch": 1.0}, {"val/loss": 4.0, "epoch": 1.0}]
    tracker = online_in(tmp_path)
    for step, row in ((1, rows[0]), (2, rows[1])):  # killed before the evaluation of step 2
        tracker.log(row, step)
    tracker.fail("interrupted")
    (run,) = wandb_server.runs.values()
    assert (run.summary["failure"], run.exit_code) == ("interrupted", 1)
    again = online_in(tmp_path)
    for step, row in ((1, rows[0]), (2, rows[1]), (2, rows[2]), (3, {"train/loss": 1.0, "epoch": 1.5})):
        again.log(row, step)
    again.finish({"cer": 0.25}, [])
    assert [*wandb_server.runs] == [run.id] and run.exit_code == 0
    assert run.curve("train/loss") == [(1, 3), (2, 2), (3, 1)] and run.curve("val/loss") == [(2, 4)]
    assert run.summary.get("failure") is None and run.summary["cer"] == 0.25
    online_in(tmp_path).fail("again")
    assert run.summary["failure"] == "again"


def test_a_rung_is_recorded_once(tmp_path: Path, wandb_server: WandbServer) -> None:
    """Killed after the first rung was decided, and again before the second was."""
    points = [(1, {"train/loss": 3.0}), (2, {"train/loss": 2.0}), (2, {"halving/rung": 1, "halving/score": 0.5})]
    points += [(3, {"train/loss": 1.0}), (4, {"train/loss": 0.5}), (4, {"halving/rung": 2, "halving/score": 0.25})]
    for number in (3, 5, 6, 6):
        tracker = online_in(tmp_path)
        for step, metrics in points[:number]:
            tracker.log(metrics, step)
        tracker.fail("killed")
    (run,) = wandb_server.runs.values()
    assert run.curve("halving/rung") == [(2, 1), (4, 2)] and run.curve("halving/score") == [(2, 0.5), (4, 0.25)]


def test_a_run_belongs_to_its_folder_and_not_to_the_path(tmp_path: Path, wandb_server: WandbServer) -> None:
    folder = tmp_path / "0"
    online_in(folder).fail("")
    clear_trial(folder)  # as before every repetition
    folder.rename(tmp_path / "1")
    online_in(tmp_path / "1").fail("")
    online_in(folder).fail("")  # as in a container of somebody else, or after `rm -rf outputs`
    first, moved, new = wandb_server.asked
    assert first == moved != new


def test_a_run_is_gone_on_with_elsewhere_only_where_there_is_none(tmp_path: Path) -> None:
    """Else a run that was deleted, and followed by a new one, would be asked for again."""
    adapter, trial, token = tmp_path / "adapter-a", tmp_path / "0", ".wandb_token"
    for folder, text in ((adapter, "first"), (trial, "own")):
        (folder / "wandb").mkdir(parents=True)
        (folder / token).write_text(text, encoding="utf-8")
    continue_record("wandb", adapter, trial)
    assert (trial / token).read_text(encoding="utf-8") == "own" and (adapter / "wandb").is_dir()
    (trial / token).unlink()
    continue_record("wandb", adapter, trial)
    assert (trial / token).read_text(encoding="utf-8") == "first" and (trial / "wandb").is_dir()
    assert not (adapter / "wandb").is_dir() and len([*adapter.glob(".wandb-before-*")]) == 1


def test_a_run_that_was_deleted_is_followed_by_a_new_one(
    tmp_path: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    online_in(tmp_path).fail("")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "5")  # wandb goes on asking for a deleted run
    wandb_server.deleted = {*wandb_server.runs}

    def before() -> None:
        if len(wandb_server.asked) > 1:  # for the deleted one: the next shall have time
            os.environ["WANDB_INIT_TIMEOUT"] = "60"

    wandb_server.before = before
    wandb_server.runs.clear()
    for _ in range(2):
        online_in(tmp_path).finish({"cer": 0.0}, [])
    first, again, new, newer = wandb_server.asked
    assert again == first and new == newer != first, "the new one is remembered"
    assert [record.message for record in caplog.records if "trying a new one" in record.message]
    assert resolve_mode("auto") == "online" and wandb_server.runs[new].exit_code == 0


@pytest.mark.parametrize(
    ("status", "said", "mode"),
    [
        (0, "W&B cannot be reached; this process writes offline runs", "offline"),
        (401, "W&B refuses the login.*wandb login --relogin.*wandb sync", "offline"),
        (403, "W&B refuses this run", "online"),
    ],
)
def test_a_run_that_cannot_be_online_is_offline(
    tmp_path: Path,
    wandb_server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
    said: str,
    mode: str,
) -> None:
    """Later trials ask again only where the server has refused nothing but this run."""
    wandb_server.gone, wandb_server.refuses = not status, status
    with monkeypatch.context() as short:
        short.setenv("WANDB_INIT_TIMEOUT", "1" if wandb_server.gone else "30")
        online_in(tmp_path).finish({"cer": 0.5}, [])
    assert [record for record in caplog.records if re.search(said, record.message)]
    assert resolve_mode("auto") == mode
    set_offline(False)
    wandb_server.gone, wandb_server.refuses = False, 0
    (stored,) = offline_runs(tmp_path)
    online_in(tmp_path).fail("")
    assert stored.run.run_id == f"{wandb_server.asked[-1]}-offline" and stored.summary["cer"] == 0.5


def test_what_the_server_missed_is_sent_when_it_is_back(tmp_path: Path, wandb_server: WandbServer) -> None:
    tracker = online_in(tmp_path)
    wandb_server.gone = True
    tracker.log({"train/loss": 2.0}, 1)
    wandb_server.wait_for(lambda: wandb_server.dropped)
    wandb_server.gone = False
    tracker.finish({"cer": 0.25}, [])
    (run,) = wandb_server.runs.values()
    assert (run.curve("train/loss"), run.summary["cer"], run.exit_code) == ([(1, 2.0)], 0.25, 0)


def test_the_command_that_is_told_uploads_what_the_server_lacks(
    tmp_path: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    tracker = online_in(tmp_path / "a sweep" / "0")
    wandb_server.gone = True
    tracker.log({"train/loss": 2.0}, 1)
    tracker.finish({"cer": 0.25}, [])
    (run,) = wandb_server.runs.values()
    assert not run.history and run.exit_code is None
    wandb_server.gone = False  # from here on a retry may deliver it, too
    (message,) = [record.message for record in caplog.records if "finishing the run" in record.message]
    _, command, arguments = message.partition("wandb sync ")
    assert command
    wandb.teardown()
    cli.main(["sync", *shlex.split(arguments)], standalone_mode=False)
    assert (run.curve("train/loss"), run.summary["cer"], run.exit_code) == ([(1, 2.0)], 0.25, 0)


def test_nothing_is_moved_without_a_run_or_below_a_live_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()
    with monkeypatch.context() as disabled:
        disabled.setenv("WANDB_MODE", "disabled")
        tracker_in(tmp_path).fail("")
    assert [path.name for path in tmp_path.iterdir()] == ["wandb"]
    first = tracker_in(tmp_path)
    tracker_in(tmp_path, config={"seed": 2}).fail("")
    first.fail("")
    assert len([*tmp_path.glob(".wandb-before-*")]) == 1 and len(offline_runs(tmp_path)) == 2


VARIABLES = {"PROJECT": "p", "RUN_GROUP": "g", "NAME": "n", "TAGS": "one,two", "NOTES": "why", "JOB_TYPE": "nightly"}


def test_variables_beat_defaults_and_options_beat_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    tracker_in(tmp_path / "0", project=None, tags=[]).fail("")
    options = LoggerConfig(project="my", group="mine", name="ours", tags=["three"], notes="so")
    make_tracker(options, trial_name="lora.r=8", group="sweep-1", config=CONFIG, folder=tmp_path / "1").fail("")
    runs = {stored.run.project: stored.run for stored in offline_runs(tmp_path / "elsewhere")}
    by_variables, by_options = runs["p"], runs["my"]
    assert (by_variables.display_name, by_variables.run_group, by_variables.notes) == ("n 0: lora.r=8", "g", "why")
    assert list(by_variables.tags) == ["one", "two"] and by_variables.job_type == "nightly"
    assert (by_options.display_name, by_options.run_group, by_options.notes) == ("ours 1: lora.r=8", "mine", "so")
    assert list(by_options.tags) == ["three"]


def test_an_agents_run_keeps_its_id_and_a_sweeps_trials_do_not_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "of-the-agent")
    logger = LoggerConfig(kind="wandb", mode="offline")
    for group, folder in ((None, tmp_path / "alone"), ("sweep", tmp_path / "0"), ("sweep", tmp_path / "1")):
        make_tracker(logger, trial_name="t", group=group, config=CONFIG, folder=folder).fail("")
    ids = [offline_runs(tmp_path / name)[0].run.run_id for name in ("alone", "0", "1")]
    assert ids[0] == "of-the-agent" and len(set(ids)) == 3


def test_the_adapter_is_an_artifact_by_option(tmp_path: Path) -> None:
    tracker = tracker_in(tmp_path, adapter=True)
    tracker.keep_adapter(adapter_in(tmp_path / "adapter"), "ab12")
    tracker.finish({"cer": 0.0}, [])
    (stored,) = offline_runs(tmp_path)
    assert stored.artifact.keys() == {"adapter_config.json", "adapter_model.safetensors"}


def services() -> set[int]:
    """Processes of W&B's that this one has started: a second's start costs seconds."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # "id (name) state parent ..."
            name, _, rest = stat.read_text().partition(" (")[2].rpartition(") ")
            if name.startswith("wandb") and int(rest.split()[1]) == os.getpid():
                found.add(int(stat.parent.name))
    return found


def test_trials_of_one_process_are_runs_of_their_own_and_share_a_service(tmp_path: Path) -> None:
    run_trial(tmp_path / "0", "first")
    before = services()
    run_trial(tmp_path / "1", "second")
    assert len(before) == 1 and services() == before
    names = [[stored.run.display_name for stored in offline_runs(tmp_path / folder)] for folder in ("0", "1")]
    assert names == [["0: first"], ["1: second"]]


def test_everything_an_offline_run_needs_lies_in_the_trials_folder(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "b.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(b"\0\0" * 1600)
    utterances = [{**UTTERANCES[1], "audio": str(tmp_path / "b.wav")}, {**UTTERANCES[2], "audio": "/no/such.wav"}]
    utterances.append({**utterances[0], "cer": 0.1, "start": 0.025, "end": 0.05, "channel": 0})
    trial = tmp_path / "trial"
    tracker_in(trial, audio=True).finish({}, utterances)
    (stored,) = offline_runs(trial)
    table = json.loads(stored.artifact["utterances.table.json"].read_text(encoding="utf-8"))
    heard, missing, part = (row[-1] for row in table["data"])
    with wave.open(str(stored.artifact[part["path"]])) as file:
        assert (file.getnframes(), file.getframerate()) == (400, 16_000)
    assert missing is None
    assert stored.artifact[heard["path"]].read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert all(path.is_relative_to(trial) for path in stored.artifact.values())
    assert "WANDB_DATA_DIR" not in os.environ


def test_a_failed_trial_is_marked_with_its_reason(tmp_path: Path) -> None:
    tracker = tracker_in(tmp_path)
    tracker.log({"train/loss": float("nan")}, 1)
    tracker.fail("loss is not finite at step 1")
    tracker.finish({"cer": 0.0}, UTTERANCES)  # closed: neither an error nor a record
    (stored,) = offline_runs(tmp_path)
    assert stored.exit_code == 1
    assert stored.summary["failure"] == "loss is not finite at step 1"
    assert "cer" not in stored.summary


def test_a_failure_inside_wandb_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = tracker_in(tmp_path)
    tracker.log({3: 1.0}, 1)  # type: ignore[dict-item]  # wandb refuses keys that are not text
    tracker.log({"train/loss": 1.0}, 2)
    tracker.finish({"cer": 0.0}, UTTERANCES)
    (warning,) = [record for record in caplog.records if record.name != "wandb"]
    assert warning.levelname == "WARNING" and "W&B failed while logging" in warning.message
    (stored,) = offline_runs(tmp_path)
    assert stored.exit_code == 1


SCRIPT = textwrap.dedent(
    """
    import logging, sys
    from pathlib import Path
    from types import SimpleNamespace
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(name)s %(message)s")
    from kimi_audio_ft.tracking import make_tracker
    settings = SimpleNamespace(
        kind="wandb", project="p", entity=None, mode=sys.argv[1], tags=[], utterance_rows=5, audio=False,
        name=None, group=None, notes=None, adapter=False, system_metrics=False,
    )
    for trial in ("0", "1"):
        tracker = make_tracker(settings, trial_name=trial, group="g", config={"a": {"b": 1}}, folder=Path(trial))
        tracker.log({"train/loss": 1.0}, 1)
        tracker.finish({"cer": 0.5}, [])
    print("torch" in sys.modules, "wandb" in sys.modules)
    """
)
# A server that refuses every connection at once, so that a login that is tried shows, and nothing leaves the machine.
DEAD_SERVER = "http://127.0.0.1:9"
KEY = "0123456789abcdef" * 3


@pytest.fixture
def fresh_process(tmp_path: Path) -> Callable[..., list[str]]:
    """Function that runs two trials in a new process with nobody logged in, and returns its lines of output."""

    def run(mode: str = "auto", **environment: str) -> list[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        home = {"HOME": str(tmp_path / "home"), "WANDB_BASE_URL": DEAD_SERVER}
        (tmp_path / "home").mkdir()
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT, mode],
            cwd=tmp_path,
            env={**clean, **home, "PYTHONPATH": str(Path(__file__).parents[3]), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stdout
        assert KEY not in result.stdout
        return result.stdout.splitlines()

    return run


@pytest.mark.slow
def test_nobody_logged_in_is_offline_and_silent(fresh_process: Any, tmp_path: Path) -> None:
    assert fresh_process() == ["False True"]
    assert [len(offline_runs(tmp_path / trial)) for trial in "01"] == [1, 1]


@pytest.mark.slow
def test_online_without_a_login_says_so_and_is_offline(fresh_process: Any, tmp_path: Path) -> None:
    lines = fresh_process("online")
    assert len(lines) == 3 and "wandb login" in lines[0]
    assert [len(offline_runs(tmp_path / trial)) for trial in "01"] == [1, 1]


@pytest.mark.slow
def test_logged_in_with_a_dead_network_goes_on_offline(fresh_process: Any, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1:9\n  login user\n  password {KEY}\n")
    lines = fresh_process(NETRC=str(netrc), WANDB_INIT_TIMEOUT="4")
    assert len(lines) == 2 and lines[0].startswith("WARNING") and "cannot be reached" in lines[0]
    runs = [stored for trial in "01" for stored in offline_runs(tmp_path / trial)]
    assert [stored.summary["cer"] for stored in runs] == [0.5, 0.5]


@pytest.mark.slow
def test_a_malformed_key_is_a_warning(fresh_process: Any, tmp_path: Path) -> None:
    lines = fresh_process(WANDB_API_KEY="short")
    assert lines[0].startswith("WARNING") and "WANDB_API_KEY" in lines[0]
    assert len(offline_runs(tmp_path / "1")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("value", ["disabled", "offline"])
def test_wandb_mode_wins(fresh_process: Any, tmp_path: Path, value: str) -> None:
    lines = fresh_process("online", WANDB_MODE=value, WANDB_API_KEY=KEY)
    assert lines == [f"False {value == 'offline'}"]
    assert len(offline_runs(tmp_path / "0")) == (value == "offline")


@pytest.mark.slow
def test_without_wandb_installed_the_trial_goes_on(fresh_process: Any, tmp_path: Path) -> None:
    (tmp_path / "blocked" / "wandb").mkdir(parents=True)
    (tmp_path / "blocked" / "wandb" / "__init__.py").write_text("raise ImportError('no module named wandb')\n")
    search = f"{tmp_path / 'blocked'}{os.pathsep}{Path(__file__).parents[3]}"
    lines = fresh_process(PYTHONPATH=search)
    assert [line.split()[0] for line in lines] == ["WARNING", "WARNING", "False"]


# Scores and utterances as W&B is given them.

SCORES: dict[str, Any] = {
    "trial": "lora.r=8",
    "cer": 0.25,
    "cer_ci_low": 0.2,
    "substitutions": 3,
    "train_reused": True,
    "final_val_loss": None,
    "diverged": math.nan,
    "cer_repeats": [0.25],
    "normalised": {"cer": 0.125, "empty_rate": 0.0, "normalisation": "normalised"},
    "categories": {"number value": 2, "other": 0.5},
    "terms": {"LPL": {"recall": 0.75, "found": "3 of 4"}},
}


def test_every_number_is_one_flat_key_and_nothing_else_is() -> None:
    assert summary_of(SCORES) == {
        "cer": 0.25,
        "cer_ci_low": 0.2,
        "substitutions": 3,
        "cer_normalised": 0.125,
        "empty_rate_normalised": 0.0,
        "errors/number value": 2,
        "errors/other": 0.5,
        "terms/LPL/recall": 0.75,
    }


def test_what_is_said_in_words_can_be_grouped_by() -> None:
    assert facts_of(SCORES) == {"trial": "lora.r=8", "train_reused": True}


def test_columns_are_those_that_some_row_has() -> None:
    old = {"id": "a", "repeat": 0, "reference": "你", "hypothesis": "", "cer": 1.0, "audio": None}
    new = {**old, "seconds": 1.5, "recording": None, "categories": {"other": 1, "filler": 2, "name": 0}}
    assert table_columns([old]) == ["id", "repeat", "reference", "hypothesis", "cer"]
    assert table_columns([old, new]) == ["id", "repeat", "reference", "hypothesis", "cer", "seconds", "errors"]
    assert [table_cell(new, column) for column in ("seconds", "errors")] == [1.5, "filler 2, other 1"]
    assert [table_cell(old, column) for column in ("seconds", "errors")] == [None, ""]


def test_the_report_is_logged_as_the_first_recorded_trial_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEAM", "speech")
    trials = {
        "0": "kind: none",
        "1": "{kind: none}",
        "2": "{kind: wandb, entity: '${oc.env:TEAM}', project: '${name}'}",
    }
    for number, written in trials.items():
        own = tmp_path / number / "cfg"  # hydra.output_subdir=cfg
        own.mkdir(parents=True)
        (own / "hydra.yaml").write_text("hydra: {}", encoding="utf-8")
        (own / "config.yaml").write_text(f"name: ours\nlogger: {written}\n" * (number != "0"), encoding="utf-8")
        (own.parent / "scores.json").write_text("{}", encoding="utf-8")
        if number != "0":
            (own.parent / TOKEN).write_text("a1", encoding="utf-8")
    assert _logger_of(tmp_path) == LoggerConfig("wandb", entity="speech", project="ours")
    (tmp_path / "1" / "cfg" / "config.yaml").unlink()
    record_sweep(tmp_path, [])
    assert "the report is not uploaded" in caplog.text
    assert "Run the sweep again, without hydra.output_subdir=null" in caplog.text
