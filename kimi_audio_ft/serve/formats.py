"""Answers in the formats of OpenAI's transcriptions: json, text, srt, vtt and verbose_json."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from kimi_audio_ft.transcribe.confidence import Text, joined
from kimi_audio_ft.transcribe.outputs import SUBTITLES, subtitles
from kimi_audio_ft.transcribe.pieces import Heard

JSON, TEXT, VERBOSE = "json", "text", "verbose_json"
FORMATS = (JSON, TEXT, *SUBTITLES, VERBOSE)


def formatted(
    heard: Heard, texts: Sequence[Text], kind: str, temperature: float, language: str = ""
) -> str | dict[str, Any]:
    """The answer to a request: a text for text and subtitles, else an object.

    Args:
        texts: of the recording's pieces, in order. temperature: with which they were drawn. language: that the request
            names; nobody listens for it.
    """
    whole = joined(texts)
    if kind == TEXT:
        return f"{whole.text}\n"
    if kind == JSON:
        return {"text": whole.text}
    spans = [
        {"start": round(piece.start, 3), "end": round(piece.end, 3), "text": text.text}
        for piece, text in zip(heard.pieces, texts, strict=True)
    ]
    if kind in SUBTITLES:
        return subtitles(spans, kind)
    segments = [
        {"id": number, **span, **_sureness(text), "temperature": temperature}
        for number, (span, text) in enumerate(zip(spans, texts, strict=True))
    ]
    facts = {"task": "transcribe", "language": language, "duration": round(heard.seconds, 3), "text": whole.text}
    return {**facts, **_sureness(whole), "segments": segments}


def _sureness(text: Text) -> dict[str, Any]:
    """How sure a text is; of OpenAI's fields there are none about tokens and silence, which are not known here."""
    found: dict[str, Any] = {}
    if text.avg_logprob is not None:
        found["avg_logprob"] = round(text.avg_logprob, 4)
    if text.agreement is not None:
        found["agreement"] = round(text.agreement, 4)
    if text.truncated:
        found["truncated"] = True
    if text.text:  # repetitions compress well
        raw = text.text.encode()
        found["compression_ratio"] = round(len(raw) / len(zlib.compress(raw)), 4)
    return found
