"""All that a task's process imports: a process that has imported it is forked for every task (``local``).

That process answers no signal: the tasks do, and it ends with the last of them and of the sweep.
"""

from __future__ import annotations

import gc
import signal

from kimi_audio_ft.runtime.libraries import leave_out_bitsandbytes


def preload() -> None:
    """Import what a task needs."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    leave_out_bitsandbytes()
    from kimi_audio_ft.decoding.transcribe import transcribe  # noqa: F401
    from kimi_audio_ft.lora.adapter import add_adapter  # noqa: F401
    from kimi_audio_ft.sweep.worker import make_units  # noqa: F401
    from kimi_audio_ft.training.fit import fit_adapters  # noqa: F401


preload()
gc.freeze()  # a collection in a task would write to pages that it shares
