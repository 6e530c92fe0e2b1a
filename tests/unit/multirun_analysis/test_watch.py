"""--watch: what is written when, and when it ends. Nothing sleeps: the waiting is handed in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kimi_audio_ft.errors import DataError, UserError
from kimi_audio_ft.store.usage import using
from kimi_audio_ft.sweep_folder import record_jobs
from multirun_analysis.__main__ import main
from multirun_analysis.messages import CHINESE, ENGLISH
from multirun_analysis.watch import watch
from tests.synthetic_sweep import write_multirun

RELOADS = "data-reload="


class Script:
    """Stands in for the time that passes: each wait does the next thing to the folder, then looks at the page."""

    def __init__(self, html: Path, *steps: Callable[[], Any]) -> None:
        self.html, self.steps, self.pages, self.times, self.waited = html, list(steps), [], [], []

    def __call__(self, seconds: float) -> None:
        self.pages.append(self.html.read_text(encoding="utf-8"))
        self.times.append(self.html.stat().st_ino)  # written aside and renamed: another file each time
        self.waited.append(seconds)
        if not self.steps:
            raise KeyboardInterrupt
        self.steps.pop(0)()


def finish(folder: Path) -> None:
    """What the sweep's own report leaves."""
    (folder / "trials.json").write_text("{}", encoding="utf-8")


@pytest.fixture
def running(sweep: Any) -> Any:
    """A sweep that has begun and has no trial yet."""
    write_multirun(sweep.folder, ["lora.r=2,8"])
    return sweep


def test_from_nothing_to_the_end(running: Any) -> None:
    folder: Path = running.folder
    html = folder / "report.html"
    script = Script(
        html,
        lambda: running.start(0, 2, 1e-3, 0.0),
        lambda: running.trial(1, 8),
        lambda: None,
        lambda: running.trial(2, 16),
        lambda: finish(folder),
    )
    paths = watch(folder, None, ENGLISH, seconds=7, wait=script)
    assert ["Waiting for the first" in page for page in script.pages] == [True, True, False, False, False]
    assert "1 running, 0 failed" in script.pages[1]
    assert all("reloads itself every 7 s" in page for page in script.pages)
    assert RELOADS in script.pages[2] and "1 trial finished, 1 unfinished" in script.pages[2]
    assert script.times[2] == script.times[3], "nothing changed, but the report was written again"
    assert "2 trials finished" in script.pages[4]
    assert min(script.waited) >= 7
    last = html.read_text(encoding="utf-8")
    assert RELOADS not in last and "reloads itself" not in last
    assert len(json.loads(paths.json.read_text(encoding="utf-8"))["trials"]) == 3


def test_tables_of_an_earlier_sweep_do_not_end_it(running: Any) -> None:
    running.trial(0)
    tables = running.folder / "trials.json"
    tables.write_text("{}", encoding="utf-8")
    begun = (running.folder / "multirun.yaml").stat().st_mtime
    os.utime(tables, (begun - 60, begun - 60))
    script = Script(running.folder / "report.html", lambda: finish(running.folder))
    watch(running.folder, None, ENGLISH, wait=script)
    assert len(script.pages) == 1


def test_a_trial_that_begins_is_seen_whatever_hydras_own_folder_is_called(running: Any) -> None:
    def begin(number: int) -> None:
        folder, _ = running.start(number, 8, 1e-3, 0.0)
        (folder / ".hydra" / "hydra.yaml").touch()
        (folder / ".hydra").rename(folder / "cfg")

    record_jobs(running.folder, {number: (running.folder / str(number), []) for number in (0, 1)})
    begin(0)
    script = Script(running.folder / "report.html", lambda: begin(1))
    with pytest.raises(KeyboardInterrupt):
        watch(running.folder, None, ENGLISH, wait=script)
    assert "1 running" in script.pages[0] and "2 running" in script.pages[1]


def test_another_report_does_not_end_a_sweep_that_runs(running: Any) -> None:
    """``python -m multirun_analysis SWEEP`` in another terminal leaves tables that are younger than the sweep."""
    running.trial(0)
    uses = ExitStack()
    uses.enter_context(using(running.folder))
    script = Script(running.folder / "report.html", lambda: finish(running.folder), uses.close)
    watch(running.folder, None, ENGLISH, wait=script)
    assert len(script.pages) == 2


def test_a_half_written_trial_leaves_the_last_page(running: Any) -> None:
    running.trial(0)
    html = running.folder / "report.html"

    def half() -> None:
        folder, _ = running.start(1, 8, 1e-3, 0.0)
        (folder / "scores.json").write_text('{"cer": 0.', encoding="utf-8")

    script = Script(html, half, lambda: (running.folder / "1" / "scores.json").unlink(), lambda: finish(running.folder))
    watch(running.folder, None, ENGLISH, wait=script)
    assert script.pages[1] == script.pages[0]
    assert "1 unfinished" in script.pages[2]


def watched_on() -> None:
    pytest.fail("the sweep is watched on")


def ended(sweep: Any) -> None:
    """What a sweep that was killed leaves in the store; how a killed process does is tested beside the store."""
    with using(sweep.folder):
        pass


def test_a_sweep_without_a_process_is_watched_for_two_minutes_more(running: Any) -> None:
    running.trial(0)
    ended(running)
    html = running.folder / "report.html"
    script = Script(html, *[lambda: None] * 4, watched_on)
    with pytest.raises(UserError, match=r"no process of it has been alive for 2 minutes.*report\.html.*Re-run"):
        watch(running.folder, None, ENGLISH, seconds=45, wait=script)
    assert len(script.pages) == 4  # the first look writes, the second finds it dead, and then 2 minutes of it
    assert all(RELOADS in page for page in script.pages)
    last = html.read_text(encoding="utf-8")
    assert RELOADS not in last and "1 trial finished" in last and "reloads itself" not in last
    assert not (running.folder / "trials.json").exists(), "it is not done"


def test_one_look_without_a_process_is_not_the_end(running: Any) -> None:
    """Between two launches, and while the last report is written, nobody holds the sweep."""
    running.trial(0)
    ended(running)
    script = Script(running.folder / "report.html", lambda: None, lambda: None, lambda: finish(running.folder))
    watch(running.folder, None, ENGLISH, seconds=100, wait=script)
    assert len(script.pages) == 3


def test_signs_of_life_begin_the_two_minutes_anew(running: Any) -> None:
    running.trial(0)
    ended(running)
    uses = ExitStack()

    def begin() -> None:
        uses.enter_context(using(running.folder))

    steps = [lambda: None, begin, lambda: None, uses.close, lambda: None, lambda: running.trial(1, 32)]
    script = Script(running.folder / "report.html", *steps, *[lambda: None] * 3, watched_on)
    with pytest.raises(UserError, match="no process of it"):
        watch(running.folder, None, ENGLISH, seconds=70, wait=script)
    assert script.steps == [watched_on] and len(script.pages) == 9


def test_a_sweep_that_another_store_knows_is_watched_on(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(running)
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(running.folder / "elsewhere"))
    script = Script(running.folder / "report.html", *[lambda: None] * 9)
    with pytest.raises(KeyboardInterrupt):
        watch(running.folder, None, ENGLISH, seconds=600, wait=script)
    assert not (running.folder / "elsewhere").exists()


def test_a_killed_sweep_without_a_result_gets_a_page_that_says_so(running: Any) -> None:
    running.start(0, 8, 1e-3, 0.0)
    record_jobs(running.folder, {number: (running.folder / str(number), []) for number in range(36)})
    ended(running)
    script = Script(running.folder / "report.html", *[lambda: None] * 2, watched_on)
    with pytest.raises(UserError, match="no process of it"):
        watch(running.folder, None, CHINESE, seconds=120, wait=script)
    assert "正在等待第一个完成的试验" in script.pages[0]
    assert "1 个运行中，0 个失败，35 个在等待适配器" in script.pages[0]
    last = (running.folder / "report.html").read_text(encoding="utf-8")
    assert "扫描在有试验完成之前就结束了" in last and "再次运行同一条扫描命令" in last
    assert 'http-equiv="refresh"' in script.pages[0] and 'http-equiv="refresh"' not in last


def test_why_there_is_no_report_is_told(running: Any) -> None:
    folder, _ = running.start(0, 8, 1e-3, 0.0)
    (folder / "scores.json").write_text("{", encoding="utf-8")
    script = Script(running.folder / "report.html")
    with pytest.raises(KeyboardInterrupt):
        watch(running.folder, None, CHINESE, wait=script)
    assert "scores.json" in script.pages[0] and 'lang="zh-CN"' in script.pages[0]
    assert "正在等待第一个完成的试验" in script.pages[0]


def test_a_sweep_that_is_done_is_reported_once(sweep_24: Path, tmp_path: Path) -> None:
    finish(sweep_24)
    paths = watch(sweep_24, tmp_path / "out", ENGLISH, wait=lambda _: pytest.fail("waited for a sweep that is done"))
    assert paths.html.parent == tmp_path / "out" and RELOADS not in paths.html.read_text(encoding="utf-8")


def test_a_folder_that_does_not_exist_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        watch(tmp_path / "typo", None, ENGLISH)


def test_an_end_without_a_result_is_an_error(running: Any) -> None:
    running.fail(0)
    finish(running.folder)
    with pytest.raises(UserError, match="no finished trial"):
        watch(running.folder, None, ENGLISH)


def test_the_command_ends_with_the_sweep(sweep_24: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(sweep_24)
    assert main([str(sweep_24), "--watch", "5", "--language", "zh", "--margin", "7"]) == 0
    told = json.loads((sweep_24 / "trials.json").read_text(encoding="utf-8"))
    assert told["statistics"]["method"]["margin"] == 0.07
    assert "The sweep is done. Report:" in capsys.readouterr().out
    assert 'lang="zh-CN"' in (sweep_24 / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("given", ["0", "soon", "-3"])
def test_a_time_that_is_none_is_refused(sweep_24: Path, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(sweep_24), f"--watch={given}"])
    assert "--watch" in capsys.readouterr().err
