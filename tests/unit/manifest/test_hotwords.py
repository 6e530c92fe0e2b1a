"""Hot words: what a list may hold, which of its words a prompt has, and that prompts are part of what is trained on."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from kimi_audio_ft.config.prompt import PromptConfig
from kimi_audio_ft.errors import ConfigError, DataError, UserError
from kimi_audio_ft.manifest.hotwords import (
    DrawnHotwords,
    Hotwords,
    read_drawn_hotwords,
    read_hotwords,
    require_room,
    typed_words,
    with_words,
)
from kimi_audio_ft.manifest.manifest import manifest_identity, read_manifest, reference_identity
from tests.unit.conftest import Tiny, answer, audio, line, user

WORDS = ("市盈率", "沈嘉睿", "LP", "Kimi Audio", "5G", "江来")


def listed(folder: Path, text: str, encoding: str = "utf-8") -> PromptConfig:
    (folder / "words.txt").write_bytes(text.encode(encoding))
    return PromptConfig(str(folder / "words.txt"))


def drawn(distractors: int = 2, said: float = 1.0, seed: int = 1, words: tuple[str, ...] = WORDS) -> DrawnHotwords:
    return DrawnHotwords(words, distractors, said, seed)


def test_a_list_has_a_word_a_line(tmp_path: Path) -> None:
    config = listed(tmp_path, "\ufeff市盈率\r\n\n# people\n 沈嘉睿 \nKimi Audio\n市盈率\n")
    assert read_hotwords(config) == Hotwords(("市盈率", "沈嘉睿", "Kimi Audio"))
    assert read_drawn_hotwords(config) == DrawnHotwords(("市盈率", "沈嘉睿", "Kimi Audio"), 20, 0.7, 1)
    assert read_hotwords(PromptConfig()) is read_drawn_hotwords(PromptConfig()) is read_hotwords(None) is None


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        ("# none\n\n", "utf-8", "holds no word. Write one word a line"),
        ("市盈率", "gb18030", "is not UTF-8 (byte 0)"),
        ("好\n市盈率、江来", "utf-8", "words.txt:2: '市盈率、江来': holds 、"),
        ("a\x1b[2Jb", "utf-8", "words.txt:1: 'a\\x1b[2Jb': holds a character that cannot be printed"),
        ("长" * 65, "utf-8", "has 65 characters, and a word has at most 64"),
        ("江来\n——", "utf-8", "words.txt:2: '——': has neither a letter nor a digit"),
    ],
)
def test_a_list_that_cannot_be_used(tmp_path: Path, text: str, encoding: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        read_hotwords(listed(tmp_path, text, encoding))
    assert said in str(error.value) and "prompt.hotwords" in str(error.value)


def test_options_that_cannot_be_used() -> None:
    with pytest.raises(ConfigError, match=r"prompt.hotwords='/no/such.txt': .*No such file"):
        read_hotwords(PromptConfig("/no/such.txt"))
    for fields, said in (
        ({"hotwords": ""}, "must name a file"),
        ({"distractors": -1}, "must be 0 or more"),
        ({"said_probability": 1.1}, "must lie between 0 and 1"),
    ):
        with pytest.raises(ConfigError, match=said):
            PromptConfig(**fields)  # type: ignore[arg-type]


def test_a_list_that_is_too_long_for_the_model(tmp_path: Path, tiny: Tiny) -> None:
    config = listed(tmp_path, "市盈率\n沈嘉睿\n")
    require_room(config, tiny.tokenizer, 8192)
    with pytest.raises(ConfigError, match=r"its 2 words take \d+ positions; of the model's 10 they may take 5"):
        require_room(config, tiny.tokenizer, 10)
    with pytest.raises(ConfigError, match=r"its 2 words take \d+ positions with the prompt; of the model's 100 "):
        require_room(config, tiny.tokenizer, 100, prompt="转录" * 50)


def test_retrieved_words_that_are_too_long_for_the_model(tmp_path: Path, tiny: Tiny) -> None:
    """Bounded by the longest ones of the list."""
    config = listed(tmp_path, "\n".join(["江", *(f"{number}长" * 10 for number in range(10, 20)), "来"]))
    require_room(replace(config, retrieve=1), tiny.tokenizer, 200)
    with pytest.raises(ConfigError, match=r"the 9 longest of its words .* of the model's 200.*Lower prompt.retrieve"):
        require_room(replace(config, retrieve=9), tiny.tokenizer, 200)


def test_words_stand_behind_the_prompt() -> None:
    assert with_words("转录。", ["市盈率", "LP"]) == "转录。\n热词：市盈率、LP"
    assert with_words("转录。", []) == "转录。"
    assert typed_words(" Kimi Audio, 沈嘉睿、市盈率;LP\nLP，\n") == ["Kimi Audio", "沈嘉睿", "市盈率", "LP"]
    assert typed_words(" ,\n") == []


def test_said_words_come_with_others() -> None:
    assert set(drawn(distractors=0).of("a", "沈嘉睿说市盈率的ＬＰ")) == {"沈嘉睿", "市盈率", "LP"}
    assert list(drawn(distractors=0).of("a", "APLP和GLP，用kimi audio2")) == []  # parts of other words
    assert set(drawn(distractors=0).of("a", "用kimi audio看LP的5G")) == {"Kimi Audio", "LP", "5G"}
    for number in range(40):
        found = drawn().of(f"u{number}", "市盈率")
        assert "市盈率" in found and len(found) <= 3 and len(set(found)) == len(found)
        assert "市盈率" not in drawn(said=0.0).of(f"u{number}", "市盈率")
    assert {len(drawn().of(f"u{number}", "市盈率")) for number in range(40)} == {1, 2, 3}
    assert {found[0] == "市盈率" for number in range(40) if len(found := drawn().of(f"u{number}", "市盈率")) > 1} == {
        True,
        False,
    }
    assert len(drawn(distractors=99).of("a", "")) <= len(WORDS)
    told = ["市盈率" in drawn(said=0.7).of(f"u{number}", "市盈率") for number in range(1000)]
    assert 0.65 < sum(told) / 1000 < 0.75


def test_draws_depend_on_conversation_and_seed_alone() -> None:
    one, again = drawn(), pickle.loads(pickle.dumps(drawn()))
    names = [f"u{number}" for number in range(20)]
    assert [one.of(name, "江来") for name in names] == [again.of(name, "江来") for name in reversed(names)][::-1]
    assert [one.of(name, "江来") for name in names] != [drawn(seed=2).of(name, "江来") for name in names]


def test_prompts_of_a_manifest(tmp_path: Path, tiny: Tiny) -> None:
    path = tmp_path / "m.jsonl"
    codes = {"audio_tokens": [tiny.tokens.first] * 3}
    rows = [
        line("a", user("转录"), audio("a.wav", **codes), answer("江来的LP")),
        line("b", user("转录"), audio("b.wav", **codes), answer("好"), user("再"), answer("江来")),
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def read(words: Hotwords | None, prompt: str | None = None):  # type: ignore[no-untyped-def]
        return read_manifest(path, tokens=tiny.tokens, tokenizer=tiny.tokenizer, prompt=prompt, hotwords=words)

    plain, whole, some = read(None), read(Hotwords(WORDS)), read(drawn(distractors=0), "写")
    assert [m["content"] for m in whole[1].messages if m["message_type"] == "text"] == [
        *("转录", "好"),
        with_words("再", WORDS),
        "江来",
    ]
    assert some[0].messages[0]["content"] in ("写\n热词：LP、江来", "写\n热词：江来、LP")
    added = len(tiny.tokenizer.encode(with_words("转录", WORDS))) - len(tiny.tokenizer.encode("转录"))
    assert (whole.lengths(tiny.tokenizer)[0] - plain.lengths(tiny.tokenizer)[0]).tolist() == [added, 0]
    named = [manifest_identity(one) for one in (plain, whole, some, read(Hotwords(WORDS[:-1])))]
    assert len(set(named)) == 4
    assert manifest_identity(read(drawn(distractors=0), "写")) == named[2]
    assert reference_identity(whole) == reference_identity(plain)


def test_a_conversation_without_a_text_prompt(tmp_path: Path, tiny: Tiny) -> None:
    path = tmp_path / "m.jsonl"
    row = line("a", audio("a.wav", audio_tokens=[tiny.tokens.first]), answer("好"))
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"m.jsonl:1: has no text message of the user, and prompt.hotwords are put"):
        read_manifest(path, tokens=tiny.tokens, tokenizer=tiny.tokenizer, hotwords=Hotwords(WORDS))
