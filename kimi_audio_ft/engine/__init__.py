"""The former name of ``kimi_audio_ft.sweep``: ``python -m kimi_audio_ft.engine TASK.json`` works for one version."""
