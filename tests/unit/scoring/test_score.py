from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import jiwer
import pytest

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.scoring import score, utterance_scores
from kimi_audio_ft.scoring.error_rates import mixed_units


def report_pairs(shared_dir: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The ten published pairs of the experiment report."""
    lines = (shared_dir / "data" / "report_eval_pairs.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [json.loads(line) for line in lines]
    return {str(p["id"]): p["reference"] for p in pairs}, {str(p["id"]): p["hypothesis"] for p in pairs}


def random_pairs(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Chinese, English and mixed sentences, and copies with seeded edits."""
    rng = random.Random(seed)
    references, hypotheses = [], []
    for _ in range(count):
        alphabet = rng.choice(["你好我们是二级市场的", "abcde   ", "市场ab 5"])
        reference = "x" + "".join(rng.choices(alphabet, k=rng.randrange(1, 30)))
        edited = [rng.choice(["", c, c, c, c, c, c + "新", "错"]) for c in reference]
        references.append(reference)
        hypotheses.append("".join(edited) or "空")
    return references, hypotheses


def as_dict(texts: list[str]) -> dict[str, str]:
    return {f"utterance-{index}": text for index, text in enumerate(texts)}


@pytest.mark.parametrize("seed", range(5))
def test_characters_and_words_are_counted_as_jiwer_counts_them(seed: int) -> None:
    references, hypotheses = random_pairs(60, seed)
    ours = score(as_dict(references), as_dict(hypotheses))
    theirs = jiwer.process_characters(references, hypotheses)
    assert ours["cer"] == pytest.approx(theirs.cer, abs=1e-12)
    assert (ours["substitutions"], ours["deletions"], ours["insertions"]) == (
        theirs.substitutions,
        theirs.deletions,
        theirs.insertions,
    )
    assert ours["wer"] == pytest.approx(jiwer.wer(references, hypotheses), abs=1e-12)
    each = utterance_scores(as_dict(references), as_dict(hypotheses))
    assert list(each) == list(as_dict(references))
    assert list(each.values()) == pytest.approx([jiwer.cer(r, h) for r, h in zip(references, hypotheses, strict=True)])


def test_every_field_on_a_case_counted_by_hand() -> None:
    references = {"a": "所有LPL的", "b": "七千万 yes", "c": "好"}
    hypotheses = {"a": "所有LP地", "b": "七千万 yes sir", "c": "好 "}
    assert score(references, hypotheses) == {
        "cer": 6 / 14,  # a: L deleted, 的 to 地; b: four characters inserted
        "wer": 2 / 4,
        "mer": 3 / 9,  # a: LPL to LP, 的 to 地; b: sir
        "exact_match": 1 / 3,
        "substitutions": 1,
        "deletions": 1,
        "insertions": 4,
        "num_references": 3,
        "num_reference_chars": 14,
        "empty_outputs": 0,
    }


def test_silence_costs_deletions() -> None:
    scores = score({"a": "你好", "b": "hello", "c": "再见"}, {"a": "你好", "b": " \n"})
    assert (scores["deletions"], scores["num_reference_chars"], scores["empty_outputs"]) == (7, 9, 2)
    assert scores["cer"] == 7 / 9
    assert scores["wer"] == 2 / 3
    assert utterance_scores({"a": "你好", "b": "再见"}, {"b": "再见"}) == {"a": 1.0, "b": 0.0}


def test_an_empty_reference_is_no_division_by_zero() -> None:
    assert score({"a": ""}, {"a": "嗯嗯"})["cer"] == 2  # as jiwer: the number of insertions
    assert score({"a": ""}, {"a": ""}) | {"empty_outputs": 0} == {
        **dict.fromkeys(["cer", "wer", "mer"], 0.0),
        **dict.fromkeys(["substitutions", "deletions", "insertions", "num_reference_chars", "empty_outputs"], 0),
        "exact_match": 1.0,
        "num_references": 1,
    }
    assert score({"a": "", "b": "你好"}, {"a": "嗯", "b": "你好"})["cer"] == 1 / 2
    assert utterance_scores({"a": "。"}, {"a": "嗯嗯"}, "normalised") == {"a": 2.0}


def test_the_normalised_column_forgives_punctuation_and_case_only() -> None:
    references, hypotheses = {"a": "对，我们投OK。"}, {"a": "对我们投 ok"}
    assert score(references, hypotheses, "normalised")["cer"] == 0
    assert score(references, hypotheses, "normalised")["exact_match"] == 1
    assert score(references, hypotheses)["cer"] > 0
    assert score({"a": "7000万"}, {"a": "七千万"}, "normalised")["cer"] > 0


def test_the_reports_ten_pairs(shared_dir: Path) -> None:
    references, hypotheses = report_pairs(shared_dir)
    strict, normalised = score(references, hypotheses), score(references, hypotheses, "normalised")
    assert strict["exact_match"] == 0.1  # the report's "10 %"
    assert strict["cer"] == pytest.approx(0.180, abs=5e-4)
    assert normalised["cer"] == pytest.approx(57 / 326)


def test_the_reports_other_figure_needs_spoken_numbers(shared_dir: Path) -> None:
    """17.2 % on 314 characters was counted with numbers spelt out (7000万 as 七千万), which `normalised` does not do.

    Spelling out the few numbers of these pairs by hand gives that figure, edit by edit, so the rest agrees.
    """
    spoken = {"7000": "七千", "6000": "六千", "1000": "一千", "2.5": "二点五", "1.3": "一点三", "15号": "十五号"}
    spoken |= {"8月": "八月", "5G": "五G"}

    def spell(texts: dict[str, str]) -> dict[str, str]:
        for written, said in spoken.items():
            texts = {key: text.replace(written, said) for key, text in texts.items()}
        return texts

    references, hypotheses = report_pairs(shared_dir)
    scores = score(spell(references), spell(hypotheses), "normalised")
    assert scores["num_reference_chars"] == 314
    assert (scores["substitutions"], scores["deletions"], scores["insertions"]) == (28, 12, 14)
    assert scores["cer"] == pytest.approx(0.172, abs=5e-4)


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("所有LPL的2.5亿", ["所", "有", "LPL", "的", "2.5", "亿"]),
        ("I don't know, 7000万!", ["I", "don't", "know", "7000", "万"]),
        ("在10:30,用5G café 12,000", ["在", "10:30", "用", "5G", "café", "12,000"]),
        ("OK,let's", ["OK", "let's"]),
        ("。。。", []),
    ],
)
def test_mixed_units(text: str, units: list[str]) -> None:
    assert mixed_units(text) == units


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(UserError, match=r"2 of 3 have no reference: 'x', 'y'"):
        score({"a": "你好"}, {"a": "你好", "x": "多", "y": "余"})
    with pytest.raises(UserError, match=r"references: there is no utterance"):
        score({}, {})
    with pytest.raises(UserError, match=r"normalisation='fancy'"):
        score({"a": "你好"}, {"a": "你好"}, "fancy")
    with pytest.raises(UserError, match=r"hypotheses\['a'\]=3: a transcript must be text"):
        score({"a": "你好"}, {"a": 3})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="'b'"):
        utterance_scores({"a": "你好"}, {"b": "你好"})


@pytest.mark.parametrize("normalisation", ["strict", "normalised"])
def test_ten_thousand_utterances_take_seconds(normalisation: str) -> None:
    """100,000 utterances are to be scored in under 20 s on one core; measured 2 to 4 s."""
    references, hypotheses = random_pairs(10_000, seed=0)
    begin = time.process_time()
    score(as_dict(references), as_dict(hypotheses), normalisation)
    assert time.process_time() - begin < 2


def test_scoring_needs_no_torch() -> None:
    script = "import sys, kimi_audio_ft.scoring; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"
