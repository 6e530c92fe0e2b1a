"""Paths in a checkout and in an installed wheel, and of the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from kimi_audio_ft import paths
from kimi_audio_ft.errors import ConfigError


def test_a_checkout_has_its_own_files() -> None:
    assert paths.project_root() == Path(__file__).resolve().parents[2]
    assert (Path(paths.config_dir()) / "train.yaml").is_file()
    assert (paths.TINY_MODEL / "config.json").is_file()


@pytest.mark.parametrize("present", [(), ("conf",), ("setup.cfg",)])
def test_without_conf_and_setup_cfg_beside_it_the_package_is_installed(
    present: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site-packages folder may hold a ``conf`` of another project."""
    for name in present:
        (tmp_path / name).mkdir() if name == "conf" else (tmp_path / name).touch()
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path)
    assert paths.project_root() == paths.PACKAGE / "share"
    assert paths.config_dir() == str(paths.PACKAGE / "share" / "conf")


def test_the_store_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value, expected in (
        ("", tmp_path / "outputs" / "store"),
        ("mine", tmp_path / "mine"),
        ("~/mine", tmp_path / "home" / "mine"),
        (str(tmp_path / "a" / ".." / "b"), tmp_path / "b"),
    ):
        monkeypatch.setenv("KIMI_AUDIO_FT_STORE", value)
        assert paths.store_root() == expected.resolve()
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", "~/mine")  # by the system's list of users
    assert paths.store_root() == Path("~/mine").expanduser().resolve()
    monkeypatch.delenv("KIMI_AUDIO_FT_STORE")
    assert paths.store_root() == (tmp_path / "outputs" / "store").resolve()


def test_a_home_folder_that_is_not_there_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", "~nobody-of-this-name/store")
    with pytest.raises(ConfigError, match="KIMI_AUDIO_FT_STORE='~nobody-of-this-name/store': there is no such home"):
        paths.store_root()
    assert paths.expanded("~nobody-of-this-name/words.txt") == Path("~nobody-of-this-name/words.txt")
    paths.share_with_group()  # at the start of commands, before they can report errors
