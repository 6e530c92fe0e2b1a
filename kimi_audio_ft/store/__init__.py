"""The content-addressed store of features, adapters and transcripts: ``<root>/<kind>/<signature>/``."""

from kimi_audio_ft.store.make import (
    begin,
    complete,
    damage,
    discard,
    draft_folder,
    find,
    find_or_make,
    find_or_make_all,
    lock,
    product_path,
    read_meta,
    set_aside,
    work_folder,
)

__all__ = ["begin", "complete", "damage", "discard", "draft_folder", "find", "find_or_make", "find_or_make_all"]
__all__ += ["lock", "product_path", "read_meta", "set_aside", "work_folder"]
