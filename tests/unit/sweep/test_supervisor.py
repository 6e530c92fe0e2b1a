"""What becomes of tasks whose jobs die, are lost, or are stopped: on a queue whose jobs run here, at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.outcomes import Failure
from kimi_audio_ft.runtime.time_limit import TimeLimit
from kimi_audio_ft.sweep.events import Event, Failed, Fitting, Interrupted, Ready, Split
from kimi_audio_ft.sweep.plan import Task, Unit, read_task
from kimi_audio_ft.sweep.supervisor import JobEnd, NotNow, Supervisor
from kimi_audio_ft.sweep.task import run_task

DIED, LOST = JobEnd("died", "job ended as OUT_OF_MEMORY"), JobEnd("lost", "job ended as NODE_FAIL")
CANCELLED = JobEnd("cancelled", "job ended as CANCELLED")
OnEvent = Callable[[Event], None]


@dataclass
class Life:
    """What a job does.

    made, stopped: keys of the units that it makes, and at which it is stopped; end: of the job. begun: units that it
    works on; None: all. split: what it says before it leaves.
    """

    made: str = ""
    stopped: str = ""
    end: JobEnd | None = None
    begun: str | None = None
    split: Split | None = None

    def make(self, task: Task, on_event: OnEvent, should_stop: Callable[[], bool]) -> None:
        for unit in task.units:
            if self.begun is not None and unit.key not in self.begun:
                continue
            on_event(Fitting(unit.key, len(task.units), task.number))
            if unit.key in self.made:
                on_event(Ready(unit.key, fitted=True))
            elif unit.key in self.stopped:
                on_event(Interrupted(unit.key, 7))
        if self.split is not None:
            on_event(self.split)


@dataclass
class Queue:
    """A cluster whose jobs run while they are submitted; one that ends well, ends when its events are read."""

    lives: list[Life]
    max_restarts: int = 2
    tasks: list[tuple[str, list[str]]] = field(default_factory=list)
    pack_sizes: list[int] = field(default_factory=list)
    ends: dict[str, JobEnd] = field(default_factory=dict)
    stops: int = 0
    most: int = 0
    silences: int = 0
    closed: list[str] | None = None

    def submit(self, task_file: Path, name: str) -> str:
        if self.tasks and self.silences:
            self.silences -= 1
            raise NotNow
        task = read_task(task_file)
        self.tasks.append((name, [unit.key for unit in task.units]))
        self.pack_sizes.append(task.pack_size)
        life, job = self.lives.pop(0), str(len(self.tasks))
        run_task(task_file, lambda: False, life.make)
        if life.end is not None:
            self.ends[job] = life.end
        return job

    def ended(self, jobs: Sequence[str]) -> Mapping[str, JobEnd]:
        self.most = max(self.most, len(jobs))
        return {job: self.ends[job] for job in jobs if job in self.ends}

    def stop(self, jobs: Sequence[str]) -> None:
        self.stops += 1
        self.ends |= dict.fromkeys(jobs, LOST)

    def close(self, jobs: Sequence[str]) -> None:
        self.closed = list(jobs)


def task(keys: str, number: int = 0) -> Task:
    return Task(number, [Unit(key, [TrainConfig()]) for key in keys])


def run(
    queue: Queue,
    folder: Path,
    *tasks: Task,
    parallel: int | None = None,
    stop: Callable[[list[Event]], bool] = lambda heard: False,
) -> list[Event]:
    heard: list[Event] = []
    Supervisor(queue, folder, parallel, poll_seconds=0, retry_seconds=0).run(tasks, heard.append, lambda: stop(heard))
    assert queue.closed == []
    return heard


def names(events: Sequence[Event]) -> list[str]:
    """Of all events but those that a training begins."""
    found = [event.to_json() for event in events if not isinstance(event, Fitting)]
    return [f"{event['event']} {event['unit']}" for event in found]


def messages(events: Sequence[Event]) -> list[str]:
    return [event.failure.message for event in events if isinstance(event, Failed)]


def test_tasks_are_made_and_heard_of(tmp_path: Path) -> None:
    queue = Queue([Life("ab"), Life("c")])
    heard = run(queue, tmp_path, task("ab"), task("c", 1))
    assert names(heard) == ["ready a", "ready b", "ready c"]
    assert [event.task for event in heard if isinstance(event, Fitting)] == ["task-0", "task-0", "task-1"]
    assert queue.tasks == [("task-0", ["a", "b"]), ("task-1", ["c"])]


def test_every_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    for _ in range(2):
        assert names(run(Queue([Life("a")]), tmp_path, task("a"))) == ["ready a"]
    assert sorted(path.name for path in (tmp_path / "packs").iterdir()) == ["001", "002"]


def test_no_more_jobs_than_allowed_are_queued(tmp_path: Path) -> None:
    for parallel, most in ((1, 1), (2, 2), (None, 3)):
        queue = Queue([Life("a"), Life("b"), Life("c")])
        heard = run(queue, tmp_path, task("a"), task("b", 1), task("c", 2), parallel=parallel)
        assert names(heard) == ["ready a", "ready b", "ready c"]
        assert queue.most == most


def test_a_task_whose_job_died_is_tried_again_in_halves(tmp_path: Path) -> None:
    queue = Queue([Life("a", end=DIED), Life("bc"), Life("d")])
    heard = run(queue, tmp_path, task("abcd"))
    assert queue.tasks == [("task-0", ["a", "b", "c", "d"]), ("task-0.1", ["b", "c"]), ("task-0.2", ["d"])]
    assert names(heard) == ["ready a", "split None", "ready b", "ready c", "ready d"]
    assert Split(["b", "c", "d"], "job ended as OUT_OF_MEMORY") in heard


def test_only_what_a_killed_job_was_working_on_is_suspected(tmp_path: Path) -> None:
    queue = Queue([Life("a", end=DIED, begun="abc"), Life("b"), Life("c"), Life("de")])
    heard = run(queue, tmp_path, task("abcde"))
    assert [keys for _, keys in queue.tasks[1:]] == [["b"], ["c"], ["d", "e"]]
    assert [event.units for event in heard if isinstance(event, Split)] == [["b", "c"]]


def test_a_pack_that_did_not_fit_is_tried_in_halves_and_the_rest_in_smaller_packs(tmp_path: Path) -> None:
    broke = Life(end=DIED, begun="abcd", split=Split(["a", "b", "c", "d"], "out of memory", memory=True))
    queue = Queue([broke, Life("ab"), Life("cd"), Life("efg")])
    heard = run(queue, tmp_path, task("abcdefg"))
    assert [keys for _, keys in queue.tasks[1:]] == [["a", "b"], ["c", "d"], ["e", "f", "g"]]
    assert queue.pack_sizes == [0, 2, 2, 2]
    assert [event for event in heard if isinstance(event, Split)] == [broke.split]


def test_units_beside_one_that_broke_by_itself_go_on_whole(tmp_path: Path) -> None:
    class Failing(Life):
        def make(self, task: Task, on_event: OnEvent, should_stop: Callable[[], bool]) -> None:
            on_event(Failed("a", Failure("RuntimeError", "a bug", user=False)))
            on_event(Split([], "RuntimeError: a bug"))

    queue = Queue([Failing(end=DIED), Life("bc")])
    heard = run(queue, tmp_path, task("abc"))
    assert queue.tasks[1][1] == ["b", "c"] and names(heard) == ["failed a", "ready b", "ready c"]


def test_a_unit_that_kills_its_job_fails_alone_and_says_where_to_look(tmp_path: Path) -> None:
    heard = run(Queue([Life(end=DIED), Life("a"), Life(end=DIED), Life(end=DIED)]), tmp_path, task("ab"))
    assert names(heard) == ["split None", "ready a", "failed b"]
    failed = heard[-1]
    assert isinstance(failed, Failed) and failed.failure.user and failed.failure.traceback == ""
    message = failed.failure.message
    assert "job ended as OUT_OF_MEMORY" in message and "task-0.2.1.log" in message and "all nodes share" in message


def test_a_unit_whose_job_is_killed_once_is_tried_once_more(tmp_path: Path) -> None:
    queue = Queue([Life(end=DIED), Life("a")])
    assert names(run(queue, tmp_path, task("a"))) == ["ready a"]
    assert [keys for _, keys in queue.tasks] == [["a"], ["a"]]


def test_a_lost_job_is_submitted_again_whole(tmp_path: Path) -> None:
    queue = Queue([Life("a", end=LOST), Life("bc")])
    assert names(run(queue, tmp_path, task("abc"))) == ["ready a", "ready b", "ready c"]
    assert queue.tasks == [("task-0", ["a", "b", "c"]), ("task-0", ["b", "c"])]


def test_a_job_that_was_stopped_by_somebody_else_goes_on(tmp_path: Path) -> None:
    queue = Queue([Life("", "ab", DIED), Life("ab")])
    assert names(run(queue, tmp_path, task("ab"))) == ["ready a", "ready b"]


def test_a_job_is_lost_so_often_and_no_more(tmp_path: Path) -> None:
    queue = Queue([Life(end=LOST)] * 3)
    heard = run(queue, tmp_path, task("ab"))
    assert names(heard) == ["failed a", "failed b"]
    assert "it has been started 3 times" in messages(heard)[0]


def test_a_cancelled_job_is_not_submitted_again(tmp_path: Path) -> None:
    heard = run(Queue([Life("a", "b", CANCELLED)]), tmp_path, task("ab"))
    assert names(heard) == ["ready a", "failed b"]
    assert messages(heard) == ["job ended as CANCELLED. Re-run the command to resume"]


def test_a_cluster_that_does_not_answer_for_a_while_is_asked_again(tmp_path: Path) -> None:
    queue = Queue([Life("a"), Life("b"), Life("c")], silences=3)
    heard = run(queue, tmp_path, task("a"), task("b", 1), task("c", 2))
    assert names(heard) == ["ready a", "ready b", "ready c"]
    assert queue.silences == 0 and [name for name, _ in queue.tasks] == ["task-0", "task-1", "task-2"]


def test_where_to_look_depends_on_what_a_job_has_printed(tmp_path: Path) -> None:
    class Printing(Queue):
        def submit(self, task_file: Path, name: str) -> str:
            task_file.with_suffix(".log").write_text("words", encoding="utf-8")
            return super().submit(task_file, name)

    runs = (run(kind([Life(end=DIED), Life(end=DIED)]), tmp_path, task("a")) for kind in (Queue, Printing))
    [silent], [printing] = map(messages, runs)
    assert "does its node see" in silent and "does its node see" not in printing
    assert f"Its output is in {tmp_path}" in printing


def test_a_stopping_sweep_stops_its_jobs_and_hears_where_they_were(tmp_path: Path) -> None:
    queue = Queue([Life("a", "b")])
    heard = run(queue, tmp_path, task("abc"), task("d", 1), parallel=1, stop=bool)
    assert queue.stops == 1
    assert len(queue.tasks) == 1
    assert sorted(names(heard)) == ["interrupted b", "interrupted c", "interrupted d", "ready a"]
    steps = {event.unit: event.step for event in heard if isinstance(event, Interrupted)}
    assert steps == {"b": 7, "c": None, "d": None}


class Deaf(Queue):
    """A queue whose jobs hear nothing of the wish to stop."""

    def stop(self, jobs: Sequence[str]) -> None:
        self.stops += 1

    def close(self, jobs: Sequence[str]) -> None:
        self.closed = [*(self.closed or []), *jobs]


def test_a_sweep_whose_time_is_up_stops_its_jobs_and_ends_those_that_do_not(tmp_path: Path) -> None:
    """A minute, of a clock on which a second passes with every look; six seconds of it are to save in."""
    for queue, closed in ((Queue([Life("a"), Life("", "b")]), []), (Deaf([Life("a"), Life("", "b")]), ["2"])):
        heard: list[Event] = []
        limit = TimeLimit.from_now(1 / 60, count().__next__)
        supervisor = Supervisor(queue, tmp_path, 1, poll_seconds=0)
        supervisor.run([task("a"), task("b", 1), task("c", 2)], heard.append, lambda: False, limit)
        assert (queue.stops, queue.closed) == (1, closed)
        assert sorted(names(heard)) == ["interrupted b", "interrupted c", "ready a"]
        assert [event.step for event in heard if isinstance(event, Interrupted) and event.unit == "b"] == [7]


class Late(Deaf):
    """A queue whose jobs make what they have begun while they are being ended."""

    def submit(self, task_file: Path, name: str) -> str:
        self.last = task_file
        return super().submit(task_file, name)

    def close(self, jobs: Sequence[str]) -> None:
        super().close(jobs)
        for _ in jobs:
            run_task(self.last, lambda: False, Life("b").make)


def test_what_a_job_makes_while_it_is_ended_is_heard(tmp_path: Path) -> None:
    heard: list[Event] = []
    limit = TimeLimit.from_now(1 / 60, count().__next__)
    supervisor = Supervisor(Late([Life("a"), Life()]), tmp_path, 1, poll_seconds=0)
    supervisor.run([task("a"), task("bc", 1)], heard.append, lambda: False, limit)
    assert sorted(names(heard)) == ["interrupted c", "ready a", "ready b"]


def test_an_error_on_the_way_ends_the_jobs(tmp_path: Path) -> None:
    queue = Queue([Life("a"), Life()])

    def fail(event: Event) -> None:
        raise RuntimeError("in a trial")

    with pytest.raises(RuntimeError, match="in a trial"):
        Supervisor(queue, tmp_path, poll_seconds=0).run([task("a"), task("b", 1)], fail, lambda: False)
    assert queue.closed == ["1", "2"]
