"""Ending a training by a signal, and what Lightning would do with it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from kimi_audio_ft import store
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.runtime.signals import Interrupted, own_signals, stop_on_signals
from kimi_audio_ft.store.inventory import listing
from kimi_audio_ft.trial import Trial

Config = Callable[..., TrainConfig]


class TestStopOnSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
    def test_a_signal_is_heard_and_handlers_come_back(self, number: signal.Signals) -> None:
        before, passed = signal.getsignal(number), list[int]()
        with stop_on_signals(passed.append) as should_stop:
            assert not should_stop()
            os.kill(os.getpid(), number)
            assert should_stop() and passed == [number]
        assert signal.getsignal(number) is before

    def test_a_second_ctrl_c_interrupts_at_once(self) -> None:
        with pytest.raises(KeyboardInterrupt), stop_on_signals() as should_stop:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            assert should_stop()
            signal.raise_signal(signal.SIGINT)

    def test_in_another_thread_nothing_is_heard(self) -> None:
        seen: list[bool] = []

        def listen() -> None:
            with stop_on_signals() as should_stop:
                seen.append(should_stop())

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
