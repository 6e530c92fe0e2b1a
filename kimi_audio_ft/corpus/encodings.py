"""The encoding of a text file: a byte order mark, UTF-8, or GB18030 where that gives Chinese."""

from __future__ import annotations

import codecs
from pathlib import Path

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.text import printable

_BYTE_ORDER_MARKS = {  # UTF-32's begins with UTF-16's
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OTHER_FILES = {
    b"PK\x03\x04": "an Excel workbook (.xlsx) or another zip archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook (.xls)",
    b"\x1f\x8b": "compressed by gzip",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
    b'{"': "JSON",
    b"[{": "JSON",
    b"RIFF": "a recording",
    b"fLaC": "a recording",
    b"OggS": "a recording",
}
# The 300 most frequent characters are about two thirds of any Chinese text, and an eighth of what other encodings give.
_FREQUENT = frozenset(
    "的一是了我不人在他有这个上们来到时大地为子中你说生国年着就那和要她出也得里后自以会家可下而过天去能对小多然于心学么之都好看起发"
    "当没成只如事把还用第样道想作种开美总从无情己面最女但现前些所同日手又行意动方期它头经长儿回位分爱老因很给名法间斯知世什两次使身者"
    "被高已亲其进此话常与活正感见明问力理尔点文几定本公特做外孩相西果走将月十实向声车全信重三机工物气每并别真打太新比才便夫再书部水像眼"
    "等体却加电主界门利海受听表德少克代员许先口由死安写性马光白或住难望教命花结乐色更拉东神记处让母父应直字场平报友关放至张认接告入笑内"
    "英军候民岁往何度山觉路带万男边风解叫任金快原吃妈变通师立象数四失满战远格士音轻目条呢今午王再见谢请早晚票股市经业资产投"
)
_LEAST_FREQUENT = 0.3


class EncodingError(DataError):
    """A file that is not text, or not in the encoding that it is read in; the remedy names the option ``encoding``."""


def decode_text(path: Path, data: bytes, encoding: str) -> tuple[str, str]:
    """The file's text and the encoding that it was read in; ``auto`` finds it.

    EncodingError: it is not text, or not in that encoding; the message shows how it would read.
    """
    if encoding != "auto":
        return _decoded(path, data, encoding), encoding
    marked = next((name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), None)
    if marked:
        return _decoded(path, data, marked), marked
    _refuse_other_files(path, data)
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        return _without_utf8(path, data, error), "gb18030"


def _decoded(path: Path, data: bytes, encoding: str) -> str:
    try:
        # Two programs may each have added a byte order mark.
        return data.decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        raise _bad_byte(path, data, error, encoding) from None


def _refuse_other_files(path: Path, data: bytes) -> None:
    kind = next((kind for magic, kind in _OTHER_FILES.items() if data.startswith(magic)), None)
    if kind:
        raise EncodingError(path, f"this is {kind}, whatever its name says", "Export a CSV as UTF-8")
    if b"\0" in data[:4096]:
        remedy = "Set encoding=utf-16-le or utf-16-be if it is text, or export a CSV as UTF-8"
        raise EncodingError(path, "it holds zero bytes: UTF-16 without a byte order mark, or no text at all", remedy)


def _without_utf8(path: Path, data: bytes, error: UnicodeDecodeError) -> str:
    """The text in GB18030, if it is Chinese; EncodingError otherwise."""
    replaced = data.decode("utf-8", "replace")
    bad = replaced.count("\ufffd")
    if sum(not character.isascii() for character in replaced) > 2 * bad:  # nearly all of it is UTF-8
        raise _bad_byte(path, data, error, "utf-8")
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError as other:
        raise _bad_byte(path, data, other, "utf-8 or gb18030") from None
    if not _is_chinese(text):
        shown = {name: printable(_line_at(data, error.start).decode(name, "replace")) for name in ("cp1252", "gb18030")}
        problem = f"it is not UTF-8, and as GB18030 it does not read as Chinese ({shown['gb18030']!r})"
        remedy = f"Set encoding= to the file's own; cp1252 would give {shown['cp1252']!r}"
        raise EncodingError(path, problem, remedy, line=data.count(b"\n", 0, error.start) + 1)
    return text


def _is_chinese(text: str) -> bool:
    """Whether frequent characters are as many as in Chinese, among East Asian ones but punctuation."""
    letters = [char for char in text if char > "\u303f" and not "\uff00" <= char <= "\uffef"]
    return sum(char in _FREQUENT for char in letters) >= _LEAST_FREQUENT * max(1, len(letters))


def _bad_byte(path: Path, data: bytes, error: UnicodeDecodeError, encoding: str) -> EncodingError:
    start, marks = error.start, 3 if encoding == "utf-8-sig" else 0  # that codec does not count the mark
    line, byte = data.count(b"\n", 0, start + marks) + 1, data[start + marks]
    problem = f"byte 0x{byte:02x} (byte {start + marks} of the file) is not {encoding}"
    return EncodingError(path, problem, "Set encoding= to the file's own, or save it as UTF-8", line=line)


def _line_at(data: bytes, position: int) -> bytes:
    begin = data.rfind(b"\n", 0, position) + 1
    end = data.find(b"\n", position)
    return data[begin : end if end >= 0 else len(data)].strip()[:80]
