"""The frame of every command: its config is composed by Hydra, and errors become messages for people."""

from kimi_audio_ft.cli.app import command, is_sweep, is_users
from kimi_audio_ft.cli.arguments import with_home
from kimi_audio_ft.cli.explain import about_overrides, explain
from kimi_audio_ft.cli.notebook import compose
from kimi_audio_ft.cli.settings import OPEN, option_names, settings_of, to_settings, unknown_option

__all__ = ["OPEN", "about_overrides", "command", "compose", "explain", "is_sweep", "is_users", "option_names"]
__all__ += ["settings_of", "to_settings", "unknown_option", "with_home"]
