"""All that workers of the tests import; forkserver.py has it imported once."""

from __future__ import annotations

import gc

from kimi_audio_ft.runtime.libraries import leave_out_bitsandbytes
from tests.forkserver import fork_own_workers


def preload() -> None:
    """Import what a worker would, and a sweep's command, and compute what every one of them would."""
    leave_out_bitsandbytes()
    import kimi_audio_ft.cli
    import kimi_audio_ft.sweep.launch
    import kimi_audio_ft.sweep.report  # noqa: F401
    from kimi_audio_ft.decoding.transcribe import transcribe  # noqa: F401
    from kimi_audio_ft.lora.adapter import add_adapter  # noqa: F401
    from kimi_audio_ft.scoring import score  # noqa: F401
    from kimi_audio_ft.sweep.worker import make_units  # noqa: F401
    from kimi_audio_ft.training.fit import fit_adapters  # noqa: F401
    from multirun_analysis.report import page  # noqa: F401

    compile_renamings()


def compile_renamings() -> None:
    """A thousand regular expressions of transformers', which the first adapter of a process waits for."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("qwen2")


preload()
fork_own_workers()
gc.freeze()  # a collection in a worker would write to pages that it shares
