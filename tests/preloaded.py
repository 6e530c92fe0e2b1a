"""All that workers of the tests import; forkserver.py has it imported once."""

import gc

from kimi_audio_ft.bitsandbytes_import import leave_out_bitsandbytes

leave_out_bitsandbytes()

import kimi_audio_ft.decoding.transcribe
import kimi_audio_ft.engine.worker
import kimi_audio_ft.lora.adapter
import kimi_audio_ft.scoring
import kimi_audio_ft.training.fit  # noqa: F401

gc.freeze()  # a collection in a worker would write to pages that it shares
