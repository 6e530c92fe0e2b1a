"""Training and evaluation data: conversations to samples to batches to optimizer steps."""

from kimi_audio_ft.manifest.conversation import layout_conversation

__all__ = ["layout_conversation"]
