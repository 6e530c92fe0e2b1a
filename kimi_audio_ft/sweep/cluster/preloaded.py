"""All that a task's process imports: a process that has imported it is forked for every task (``local``).

That process hears no signal, and ends with the last task and the sweep; the tasks answer for themselves.
"""

from __future__ import annotations

import gc
import signal

from kimi_audio_ft.runtime.libraries import leave_out_bitsandbytes


def preload() -> None:
    """Import what a task needs."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    leave_out_bitsandbytes()
    from kimi_audio_ft.decoding.transcribe import transcribe  # noqa: F401
    from kimi_audio_ft.lora.adapter import add_adapter  # noqa: F401
    from kimi_audio_ft.sweep.worker import make_units  # noqa: F401
    from kimi_audio_ft.training.fit import fit_adapters  # noqa: F401


gc.disable()  # collections find nothing in what is being imported, and take a fifth of the time
preload()
gc.freeze()  # a collection in a task would write to pages that it shares
gc.enable()
