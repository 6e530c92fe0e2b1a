"""Training and evaluation data. ``layout_conversation`` is imported at its first use: loading it takes time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kimi_audio_ft.manifest.conversation import layout_conversation

__all__ = ["layout_conversation"]


def __getattr__(name: str) -> Any:
    if name == "layout_conversation":
        from kimi_audio_ft.manifest import conversation

        return conversation.layout_conversation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
