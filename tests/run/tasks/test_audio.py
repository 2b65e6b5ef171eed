"""Sound to samples at a model's rate."""

from __future__ import annotations

import io
import math
import wave
from pathlib import Path

import numpy as np
import pytest

from edgec.errors import UsageError
from edgec.run.tasks.audio import filters, mono, read_audio, resample, sine_of_pi, windows
from edgec.run.tasks.wav import read_wav
from tests.run.tasks.waves import WAVES, riff, wav_bytes

RNG = np.random.default_rng(7)
STEP = {"u1": 2**-7, "i2": 2**-15, "extensible": 2**-15, "i3": 2**-23, "i4": 2**-31, "f4": 2**-23, "f8": 0}


@pytest.mark.parametrize(("kind", "channels", "rate"), WAVES)
def test_every_format_gives_back_what_was_written(kind: str, channels: int, rate: int) -> None:
    samples = RNG.uniform(-1, 1, (53, channels))
    found = read_wav(wav_bytes(samples, kind, rate, extra=b"odd"))
    assert found.sample_rate == rate
    assert found.samples.shape == samples.shape
    assert np.abs(found.samples - samples).max() <= STEP[kind]


@pytest.mark.parametrize(("width", "kind"), [(1, "u1"), (2, "i2"), (3, "i3"), (4, "i4")])
def test_the_standard_library_reads_the_same(width: int, kind: str) -> None:
    data = wav_bytes(RNG.uniform(-1, 1, (10, 2)), kind, 8000)
    with wave.open(io.BytesIO(data)) as opened:
        frames = opened.readframes(opened.getnframes())
    values = [
        frames[at] - 128 if width == 1 else int.from_bytes(frames[at : at + width], "little", signed=True)
        for at in range(0, len(frames), width)
    ]
    assert read_wav(data).samples.reshape(-1).tolist() == [value / 2 ** (8 * width - 1) for value in values]


def test_a_cut_off_file_has_the_whole_frames_that_are_there() -> None:
    samples = RNG.uniform(-1, 1, (20, 2))
    data = wav_bytes(samples, "i2", 8000)
    assert read_wav(data[:-3]).samples.shape == (19, 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not a WAV file"),
        (b"ID3\x03 an mp3 file", "is not a WAV file"),
        (riff((b"data", b"\0\0")), "has no format"),
        (riff((b"fmt ", b"\1\0")), "has no format"),
        (wav_bytes(np.zeros((3, 1)), "i2", 8000).replace(b"data", b"fata"), "has no samples"),
        (riff((b"fmt ", b"\x02\0\1\0" + bytes(12)), (b"data", b"")), "of format 2, 0 bits, 1 channels and 0 Hz"),
        (wav_bytes(np.array([[math.nan]]), "f4", 8000), "no numbers"),
    ],
)
def test_damaged_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_audio(data, 8000)


def test_paths_and_arrays(tmp_path: Path) -> None:
    samples = RNG.uniform(-1, 1, (40, 2))
    path = tmp_path / "sound.wav"
    path.write_bytes(wav_bytes(samples, "f8", 8000))
    expected = samples.mean(axis=1).astype(np.float32)
    assert np.array_equal(read_audio(path, 8000), expected)
    assert np.array_equal(read_audio(str(path), 8000), expected)
    assert np.array_equal(read_audio(samples, 8000), expected)
    assert read_audio(samples[:, 0], 8000, sample_rate=4000).size == 80
    for wrong in (np.zeros(4, np.int16), np.zeros((2, 2, 2)), np.zeros((3, 0)), np.array([np.inf])):
        with pytest.raises(UsageError):
            read_audio(wrong, 8000)
    with pytest.raises(UsageError, match="cannot be read"):
        read_audio(tmp_path / "missing.wav", 8000)
    with pytest.raises(UsageError, match="samples a second"):
        read_audio(samples, 8000, sample_rate=-1)


def test_mono_is_the_mean() -> None:
    assert mono(np.array([[1.0, 0.0, 0.5], [-1.0, 1.0, 0.0]])).tolist() == [0.5, 0.0]


def test_the_sine_is_a_sine() -> None:
    places = np.concatenate([RNG.uniform(-4, 4, 5000), np.arange(-3, 3.5, 0.5)])
    expected = np.array([math.sin(math.pi * math.remainder(x, 2)) for x in places])
    assert np.abs(sine_of_pi(places) - expected).max() < 4e-16


@pytest.mark.parametrize(
    ("source", "target"), [(8000, 16000), (11025, 16000), (44100, 16000), (48000, 16000), (16000, 7919), (22050, 16000)]
)
def test_a_tone_stays_the_tone(source: int, target: int) -> None:
    """Below the cut-off it is what sampling it at the new rate gives, above it is gone."""
    nyquist = min(source, target) / 2
    count = 4000
    middle = slice(count // 4, None)
    for frequency, tolerance in ((0.05 * nyquist, 2e-4), (0.5 * nyquist, 2e-4), (0.8 * nyquist, 1e-3)):
        tone = np.sin(2 * np.pi * frequency * np.arange(count) / source).astype(np.float32)
        found = resample(tone, source, target)
        assert found.size == -(-count * target // source)
        inner = slice(found.size // 4, 3 * found.size // 4)
        expected = np.sin(2 * np.pi * frequency * np.arange(found.size) / target)
        assert np.abs(found - expected)[inner].max() < tolerance
    if source > target:
        tone = np.sin(2 * np.pi * 1.04 * nyquist * np.arange(count) / source).astype(np.float32)
        assert np.abs(resample(tone, source, target)[middle][: -target // 200 or None]).max() < 0.01


def test_resampling_is_the_sum_that_it_says() -> None:
    """Against the formula, sample by sample, at an awkward ratio."""
    samples = RNG.normal(size=200).astype(np.float32)
    up, down = 7, 5
    taps = filters(up, down)
    reach = taps.shape[1] // 2
    found = resample(samples, down * 1000, up * 1000)
    for n in (0, 1, 6, 139, found.size - 1):
        whole, phase = divmod(n * down, up)
        total = 0.0
        for tap in range(taps.shape[1]):
            k = whole + 1 - reach + tap
            if 0 <= k < samples.size:
                total += float(samples[k]) * float(taps[phase, tap])
        assert found[n] == np.float32(total)
    assert np.allclose(taps.sum(axis=1), 1, atol=1e-12)


def test_nothing_to_do() -> None:
    samples = RNG.normal(size=9).astype(np.float32)
    assert resample(samples, 16000, 16000) is samples
    assert resample(samples[:0], 8000, 16000).size == 0
    assert windows(samples[:0], 5, 16000) == []


def test_windows_are_cut_where_it_is_quiet() -> None:
    rate = 1000
    samples = np.ones(2500, np.float32)
    samples[820:860] = 0.01  # frames of 20 samples from 666 on: two whole ones in here
    parts = windows(samples, 1000, rate)
    assert parts[0] == (0, 836)
    assert [start for start, _ in parts[1:]] == [end for _, end in parts[:-1]]
    assert parts[-1][1] == 2500 and all(end - start <= 1000 for start, end in parts)


def test_a_window_smaller_than_a_frame_is_cut_at_its_end() -> None:
    assert windows(np.ones(5, np.float32), 2, 16000) == [(0, 2), (2, 4), (4, 5)]
