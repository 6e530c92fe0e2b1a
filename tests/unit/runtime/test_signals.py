"""Ending a training by a signal, and what Lightning would do with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from kimi_audio_ft import store
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.runtime.signals import Interrupted, StopRequest, own_signals
from kimi_audio_ft.store.inventory import listing
from kimi_audio_ft.trial import Trial

Config = Callable[..., TrainConfig]


class TestStopRequest:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
    def test_a_signal_is_heard_and_handlers_come_back(self, number: signal.Signals) -> None:
        before, calls = signal.getsignal(number), list[bool]()
        with StopRequest(lambda: calls.append(True)) as stop:
            assert not stop()
            os.kill(os.getpid(), number)
            assert stop() and calls == [True]
        assert signal.getsignal(number) is before
        assert stop()  # what was asked stays asked

    def test_a_cluster_s_further_signal_asks_too(self) -> None:
        before = signal.getsignal(signal.SIGUSR2)
        with StopRequest(also=[signal.SIGUSR2]) as stop:
            signal.raise_signal(signal.SIGUSR2)
            assert stop()
        assert signal.getsignal(signal.SIGUSR2) is before

    def test_a_closed_terminal_asks_and_takes_no_more_output(self) -> None:
        script = (
            "import os, signal, sys; from kimi_audio_ft.runtime.signals import StopRequest\n"
            "with StopRequest() as stop:\n"
            "    os.close(int(sys.argv[1])); signal.raise_signal(signal.SIGHUP)\n"
            "    print('nobody reads this', flush=True); sys.exit(0 if stop() else 1)"
        )
        reading, writing = os.pipe()
        command = [sys.executable, "-c", script, str(reading)]
        with subprocess.Popen(command, stdout=writing, stderr=writing, pass_fds=[reading]) as process:
            os.close(writing)
            os.close(reading)
        assert process.returncode == 0

    def test_nohup_is_respected(self) -> None:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with StopRequest() as stop:
                signal.raise_signal(signal.SIGHUP)
                assert not stop()
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_ctrl_c_can_be_left_to_a_parent(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        with StopRequest(ignore_ctrl_c=True) as stop:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            assert not stop()
            signal.raise_signal(signal.SIGTERM)
            assert stop()
        assert signal.getsignal(signal.SIGINT) is before

    def test_a_process_whose_parent_is_gone_is_asked_to_stop(self) -> None:
        gone: list[int] = []
        stop = StopRequest(is_gone=lambda: bool(gone))
        assert not stop()
        gone.append(1)
        assert stop()

    def test_a_second_ctrl_c_interrupts_at_once(self) -> None:
        with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            assert stop()
            signal.raise_signal(signal.SIGINT)

    def test_in_another_thread_nothing_is_heard(self) -> None:
        seen: list[bool] = []

        def listen() -> None:
            with StopRequest() as stop:
                seen.append(stop())

        thread = threading.Thread(target=listen)
        thread.start()
        thread.join()
        assert seen == [False]


def test_lightnings_exit_is_an_interruption() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), own_signals():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise SystemExit(1)  # noqa: B904 - as Lightning does it
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(SystemExit), own_signals():
        raise SystemExit(1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_trial_ends_at_its_step_and_goes_on(trial_config: Config, number: signal.Signals) -> None:
    """The process's own handlers are not Lightning's while it trains; the store stays clean but for the checkpoint."""
    config = trial_config(data={"batch_size": 1}, trainer={"max_steps": 4, "accumulate": 1, "log_every": 1})

    def interrupt(row: dict[str, Any]) -> None:
        if row["step"] == 2:
            signal.raise_signal(number)

    trial, before = Trial(config), signal.getsignal(number)
    with pytest.raises(Interrupted) as stop:
        trial.adapter(interrupt)
    assert signal.getsignal(number) is before
    # A row is written after the step has asked; the next step hears it.
    assert stop.value.step == 3
    work = store.work_folder("adapter", trial.training_signature)
    assert [place.name for place in work.iterdir()] == ["step=00000003"]
    assert listing() == []
    assert Trial(config).adapter().facts["steps"] == 4


@pytest.mark.slow
def test_a_training_on_two_ranks_ends_at_a_common_step(trial_config: Config) -> None:
    ranks = {"strategy": "ddp", "devices": 2, "accelerator": "cpu", "max_steps": 400, "max_epochs": 400, "log_every": 1}
    trial = Trial(trial_config(data={"batch_size": 1}, trainer={**ranks, "accumulate": 1}))

    def stop(row: dict[str, Any]) -> None:
        signal.raise_signal(signal.SIGTERM)  # of this process alone; the ranks must hear of it

    with pytest.raises(Interrupted) as interrupted:
        trial.adapter(stop)
    [checkpoint] = store.work_folder("adapter", trial.training_signature).iterdir()
    assert checkpoint.name == f"step={interrupted.value.step:08d}" and 0 < interrupted.value.step < 400
