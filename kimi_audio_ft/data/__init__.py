"""Training and evaluation data: conversations as samples, samples as batches, batches as optimizer steps."""

from kimi_audio_ft.manifest.conversation import layout_conversation

__all__ = ["layout_conversation"]
