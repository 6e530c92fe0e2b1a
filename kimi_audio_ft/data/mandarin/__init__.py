"""Word lists and templates of the demo's Mandarin; ``kimi_audio_ft.data.sentences`` is the way in."""
