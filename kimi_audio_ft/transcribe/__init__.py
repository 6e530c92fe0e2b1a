"""``python -m kimi_audio_ft.transcribe``: recordings of any length become texts."""
