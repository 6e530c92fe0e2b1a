"""CSV files as people have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kimi_audio_ft.corpus.csv_table import CsvTable, read_csv
from kimi_audio_ft.errors import DataError, UserError

WANTED = {"audio_column": "audio", "text_column": "text"}


def table_of(tmp_path: Path, content: str | bytes, **options: object) -> CsvTable:
    path = tmp_path / str(options.pop("name", "a.csv"))
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    wanted = options.pop("wanted", WANTED)
    return read_csv(path, wanted, **options)  # type: ignore[arg-type]


def test_rows_are_named_by_the_header(tmp_path: Path) -> None:
    table = table_of(tmp_path, "text, audio ,speaker\n你好,a.wav,甲\n")
    assert table.columns == ("text", "audio", "speaker")
    assert [row.cells for row in table.rows] == [{"text": "你好", "audio": "a.wav", "speaker": "甲"}]
    assert table.rows[0].line == 2 and table.rows[0].problem is None


@pytest.mark.parametrize(
    ("python_codec", "used"),
    [("gbk", "gb18030"), *((same, same) for same in ("utf-8", "utf-8-sig", "gb18030", "utf-16"))],
)
def test_encodings_are_found(tmp_path: Path, python_codec: str, used: str) -> None:
    table = table_of(tmp_path, "audio,text\na.wav,今天天气不错\n".encode(python_codec))
    assert table.encoding == used
    assert table.columns == ("audio", "text")
    assert table.rows[0].cells["text"] == "今天天气不错"


def test_the_encoding_can_be_forced(tmp_path: Path) -> None:
    content = "audio,text\na.wav,café\n".encode("latin-1")
    assert table_of(tmp_path, content, encoding="latin-1").rows[0].cells["text"] == "café"
    with pytest.raises(DataError, match=r"a\.csv:2: byte 0xe9 .* is not utf-8\. Set encoding="):
        table_of(tmp_path, content, encoding="utf-8")


def test_bytes_of_no_tried_encoding(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.csv:3: byte 0xff .* is not utf-8 or gb18030"):
        table_of(tmp_path, b"audio,text\na.wav,x\nb.wav,\xff\xff\n")


def test_quoted_commas_newlines_and_quotes_survive_with_line_numbers(tmp_path: Path) -> None:
    content = 'audio,text\r\na.wav,"一，二, ""三"""\r\nb.wav,"上\n下"\r\n\r\nc.wav,完\r\n'
    rows = table_of(tmp_path, content).rows
    assert [(row.line, row.cells["text"]) for row in rows] == [(2, '一，二, "三"'), (3, "上\n下"), (6, "完")]


def test_rows_with_another_number_of_fields_are_kept_as_malformed(tmp_path: Path) -> None:
    rows = table_of(tmp_path, "audio,text\na.wav\nb.wav,好,多余\nc.wav,好\n").rows
    assert rows[0].cells == {"audio": "a.wav"} and rows[0].problem == "1 fields; every row must have 2"
    assert rows[1].cells == {"audio": "b.wav", "text": "好", "2": "多余"}
    assert rows[1].problem == "3 fields; every row must have 2"
    assert rows[2].problem is None


def test_a_broken_quote_costs_its_own_row_only(tmp_path: Path) -> None:
    rows = table_of(tmp_path, 'audio,text\na.wav,"好"的\nb.wav,好\n').rows
    assert rows[0].line == 2 and rows[0].cells == {"raw": 'a.wav,"好"的\n'}
    assert rows[0].problem is not None and "lines 2 to 2 are no CSV row" in rows[0].problem
    assert rows[1].line == 3 and rows[1].problem is None


def test_a_quote_that_is_never_closed_is_an_error(tmp_path: Path) -> None:
    content = "audio,text\n" + 'x.wav,"好\n' + "".join(f"{index}.wav,好\n" for index in range(100))
    with pytest.raises(DataError, match=r"a\.csv:2: a quoted cell of this row is never closed\. .*quotechar"):
        table_of(tmp_path, content)
    assert len(table_of(tmp_path, content, quotechar="").rows) == 101


def test_delimiters(tmp_path: Path) -> None:
    assert table_of(tmp_path, "audio\ttext\na.wav\tx,y\n", name="a.tsv").rows[0].cells["text"] == "x,y"
    assert table_of(tmp_path, "audio;text\na.wav;x,y\n", delimiter=";").rows[0].cells["text"] == "x,y"


def test_without_a_header_columns_are_positions(tmp_path: Path) -> None:
    wanted = {"audio_column": "1", "text_column": "0"}
    for header in ("auto", "false"):
        table = table_of(tmp_path, "好,a.wav\n嗯,b.wav\n", wanted=wanted, header=header)
        assert table.chosen == wanted
        assert [(row.line, row.cells["1"]) for row in table.rows] == [(1, "a.wav"), (2, "b.wav")]


def test_positions_work_with_a_header_too(tmp_path: Path) -> None:
    table = table_of(tmp_path, "文本,录音\n好,a.wav\n", wanted={"audio_column": "1", "text_column": "0"}, header="true")
    assert table.chosen == {"audio_column": "录音", "text_column": "文本"}
    assert len(table.rows) == 1


def test_a_missing_column_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"text_column='text': .*a\.csv:1 has no column .* 'audio', '句子'\. Name one"):
        table_of(tmp_path, "audio,句子\na.wav,好\n")
    with pytest.raises(UserError, match=r"audio_column='audio': .* columns are '0', '1'.* header=false"):
        table_of(tmp_path, "a.wav,好\n", header="false")
    with pytest.raises(UserError, match=r"text_column='2': .* no column of that name"):
        table_of(tmp_path, "a.wav,好\n", wanted={"audio_column": "0", "text_column": "2"})


def test_unnamed_and_repeated_columns_are_called_by_position(tmp_path: Path) -> None:
    table = table_of(tmp_path, "audio,text,note,note,\na.wav,好,x,y,z\n")
    assert table.columns == ("audio", "text", "2", "3", "4")
    assert table.rows[0].cells == {"audio": "a.wav", "text": "好", "2": "x", "3": "y", "4": "z"}
    with pytest.raises(UserError, match="more than one column of that name"):
        table_of(tmp_path, "audio,text,text\na.wav,好,嗯\n")


def test_no_file_and_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.csv: cannot read the CSV \(No such file"):
        read_csv(tmp_path / "no.csv", WANTED)
    with pytest.raises(DataError, match="the file has no rows"):
        table_of(tmp_path, "\n\n")
