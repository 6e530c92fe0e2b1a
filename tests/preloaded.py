"""All that workers of the tests import; forkserver.py has it imported once."""

from __future__ import annotations

import gc

from kimi_audio_ft.runtime.libraries import leave_out_bitsandbytes
from tests.forkserver import fork_own_workers


def preload() -> None:
    """Import what a worker would."""
    leave_out_bitsandbytes()
    from kimi_audio_ft.decoding.transcribe import transcribe  # noqa: F401
    from kimi_audio_ft.lora.adapter import add_adapter  # noqa: F401
    from kimi_audio_ft.scoring import score  # noqa: F401
    from kimi_audio_ft.sweep.worker import make_units  # noqa: F401
    from kimi_audio_ft.training.fit import fit_adapters  # noqa: F401


preload()
fork_own_workers()
gc.freeze()  # a collection in a worker would write to pages that it shares
