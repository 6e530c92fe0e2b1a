"""Puts configs, studies and docs, which are at the top of the repository, into the package; all else: setup.cfg."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHARE = Path("kimi_audio_ft", "share")  # see kimi_audio_ft/paths.py


def _shared_files() -> list[str]:
    found = [*Path("conf").rglob("*.yaml"), *Path("experiments").glob("*.yaml"), *Path("docs").glob("*.md")]
    return sorted(path.as_posix() for path in found)


class BuildWithConfigs(build_py):
    """A wheel of any kind of installation finds them inside; an editable one reads them where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in _shared_files():
                target = Path(self.build_lib, SHARE, name)
                self.mkpath(str(target.parent))
                self.copy_file(name, str(target))

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *_shared_files()]


setup(cmdclass={"build_py": BuildWithConfigs})
