"""``python -m kimi_audio_ft.serve``: texts of uploaded recordings, by OpenAI's interface."""
