"""Lengths that are counted are those of the streams that are laid out."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kimi_audio_ft.manifest.conversation import layout_conversation, layout_lengths
from tests.unit.conftest import Tiny

ROLES = st.sampled_from(["user", "assistant"])
TEXTS = st.builds(
    lambda role, text: {"role": role, "message_type": "text", "content": text}, ROLES, st.text(max_size=12)
)
AUDIOS = st.builds(
    lambda role, codes: {"role": role, "message_type": "audio", "audio_tokens": [1467] * codes},
    ROLES,
    st.integers(1, 9),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=st.lists(TEXTS | AUDIOS, min_size=1, max_size=7), task=st.sampled_from(["understanding", "other"]))
def test_counted_lengths_are_those_of_the_layout(tiny: Tiny, messages: list[dict[str, Any]], task: str) -> None:
    for for_generation in (False, True):
        layout = layout_conversation(messages, tiny.tokenizer, task, for_generation)
        counted = layout_lengths(messages, lambda text: len(tiny.tokenizer.encode(text)), for_generation)
        assert counted == (len(layout), sum(layout.text_loss_mask))
