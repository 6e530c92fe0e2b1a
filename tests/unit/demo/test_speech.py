"""The eSpeak binding: reproducible, sensible Mandarin, errors that say what to do."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from kimi_audio_ft.demo.meetings import HOMOPHONES
from kimi_audio_ft.demo.speech import GENERAL_VOICES, SAMPLE_RATE, TARGET_VOICES, Synthesizer
from kimi_audio_ft.errors import UserError


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    return Synthesizer()


def test_a_clip_depends_on_its_arguments_alone(synthesizer: Synthesizer) -> None:
    first = synthesizer.speak("我们明天开会", variant="m1")
    synthesizer.speak("今天天气很好", variant="f3", rate=300, pitch=80)
    again = Synthesizer().speak("我们明天开会", variant="m1")
    np.testing.assert_array_equal(first, again)


@pytest.mark.slow
def test_another_process_makes_the_same_samples(synthesizer: Synthesizer) -> None:
    """eSpeak seeds its noise with the time of day unless it is told a seed, so a second process would differ."""
    program = (
        "import hashlib; from kimi_audio_ft.demo.speech import Synthesizer as S;"
        "print(hashlib.sha256(S().speak('实验成功').tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert other == hashlib.sha256(synthesizer.speak("实验成功").tobytes()).hexdigest()


def test_waveform_is_mono_float_at_16_khz_and_does_not_clip(synthesizer: Synthesizer) -> None:
    for voice in GENERAL_VOICES + TARGET_VOICES:
        waveform = synthesizer.speak("我们明天上午开会", variant=voice.variant)
        assert waveform.dtype == np.float32 and waveform.ndim == 1
        assert 0.1 < np.abs(waveform).max() < 0.999
        # Eight syllables at 175 words a minute: 0.2 to 0.35 s each.
        assert 1.6 < waveform.size / SAMPLE_RATE < 2.8


def test_longer_text_and_slower_rate_last_longer(synthesizer: Synthesizer) -> None:
    sizes = [synthesizer.speak("学习" * count).size for count in (1, 2, 4, 8)]
    assert sizes == sorted(sizes) and sizes[3] > 5 * sizes[0] and synthesizer.speak("").size == 0
    assert synthesizer.speak("我们明天开会", rate=120).size > 1.5 * synthesizer.speak("我们明天开会", rate=240).size


def test_voices_differ(synthesizer: Synthesizer) -> None:
    spectra = [
        _mean_spectrum(synthesizer.speak("我们明天上午开会", variant=v.variant)) for v in GENERAL_VOICES + TARGET_VOICES
    ]
    for index, one in enumerate(spectra):
        for other in spectra[index + 1 :]:
            assert np.abs(one - other).mean() > 0.05


def test_pitch_changes_the_sound(synthesizer: Synthesizer) -> None:
    low, high = (synthesizer.speak("我们明天开会", pitch=pitch) for pitch in (20, 80))
    assert np.abs(_mean_spectrum(low) - _mean_spectrum(high)).mean() > 0.02


def test_spaces_between_words_make_no_pause(synthesizer: Synthesizer) -> None:
    apart, together = (synthesizer.speak(text).size for text in ("我们 明天 开会", "我们明天开会"))
    assert abs(apart - together) < 0.05 * SAMPLE_RATE


def test_spoken_forms_sound_alike(synthesizer: Synthesizer) -> None:
    """Digits are read in Mandarin, and the target's homophones really sound like the general words."""
    for written, other in {"三号": "3号", "七千万": "7000万"}.items():
        assert abs(synthesizer.speak(written).size - synthesizer.speak(other).size) < 0.1 * SAMPLE_RATE
    for word, general_word in HOMOPHONES.items():
        np.testing.assert_array_equal(synthesizer.speak(word), synthesizer.speak(general_word), err_msg=word)


def test_spelled_letters_last_as_long_as_letters(synthesizer: Synthesizer) -> None:
    assert synthesizer.speak("L P L").size > 1.2 * synthesizer.speak("L P").size > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 20}, "rate=20: must lie between 80 and 450"),
        ({"pitch": 101}, "pitch=101: must lie between 0 and 100"),
        ({"variant": "nobody"}, "variant='nobody': no such eSpeak variant"),
    ],
)
def test_wrong_options_are_named(synthesizer: Synthesizer, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        synthesizer.speak("好", **options)  # type: ignore[arg-type]


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match="pip install espeakng-loader"):
        Synthesizer()


def _mean_spectrum(waveform: np.ndarray) -> np.ndarray:
    """Mean log10 magnitude in 40 bands of 200 Hz."""
    frames = waveform[: waveform.size // 400 * 400].reshape(-1, 400)
    magnitudes = np.abs(np.fft.rfft(frames * np.hanning(400), axis=1))[:, :200]
    return np.log10(magnitudes.reshape(len(frames), 40, 5).mean(axis=(0, 2)) + 1e-4)
