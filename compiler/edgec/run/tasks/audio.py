"""Sound to mono samples at a model's rate, and where to cut it (docs/tasks.md, "Audio")."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import UsageError
from edgec.run.tasks.wav import read_wav

CROSSINGS = 32  # of the filter, on each side
CUTOFF = 0.945  # of the lower rate's half
_SINE = [(-1) ** i / math.factorial(2 * i + 1) for i in range(11)]
_FRAMES_PER_SECOND = 50  # of the loudness by which a cut is chosen

Samples = npt.NDArray[np.float32]


def read_audio(audio: Any, rate: int, sample_rate: int | None = None) -> Samples:
    """Mono float32 `[samples]` at `rate`.

    `audio` is the path of a WAV file, its bytes, or an array `[samples]` or `[samples, channels]` whose
    `sample_rate` is given, or is `rate`. Raises `UsageError` for anything else.
    """
    if isinstance(audio, (str, Path)):
        try:
            wave = read_wav(Path(audio).read_bytes(), f"`{Path(audio).name}`")
        except OSError as error:
            raise UsageError(f"the audio `{audio}` cannot be read ({error.strerror or error})") from error
        return resample(mono(wave.samples), wave.sample_rate, rate)
    if isinstance(audio, (bytes, bytearray)):
        wave = read_wav(bytes(audio))
        return resample(mono(wave.samples), wave.sample_rate, rate)
    array = np.asarray(audio)
    if array.dtype.kind != "f" or array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] == 0):
        raise UsageError(
            f"an array of {array.dtype} {list(array.shape)} is no sound",
            hint="give floats from -1 to 1, [samples] or [samples, channels]",
        )
    if not np.isfinite(array).all():
        raise UsageError("the audio has samples that are no numbers")
    columns = array[:, None] if array.ndim == 1 else array
    return resample(mono(columns.astype(np.float64)), rate if sample_rate is None else sample_rate, rate)


def mono(samples: npt.NDArray[np.float64]) -> Samples:
    """The mean of the channels of `[samples, channels]`."""
    total = samples[:, 0].copy()
    for channel in range(1, samples.shape[1]):
        total += samples[:, channel]
    return np.asarray(total / samples.shape[1], np.float32)


def resample(samples: Samples, source: int, target: int) -> Samples:
    """`samples` of `source` Hz at `target` Hz, by a windowed sinc (Smith, "Digital Audio Resampling")."""
    if source <= 0 or target <= 0:
        raise UsageError(f"a sound cannot have {min(source, target)} samples a second")
    if source == target or not samples.size:
        return samples
    common = math.gcd(source, target)
    up, down = target // common, source // common
    taps = filters(up, down)
    reach = taps.shape[1] // 2
    count = -(-samples.size * up // down)
    places = np.arange(count, dtype=np.int64) * down
    whole, phase = places // up, places % up
    padded = np.concatenate([np.zeros(reach), samples.astype(np.float64), np.zeros(reach + 1)])
    total = np.zeros(count)
    for tap in range(taps.shape[1]):  # one after the other, as the other runtimes add
        total += padded[whole + (tap + 1)] * taps[phase, tap]
    return total.astype(np.float32)


def filters(up: int, down: int) -> npt.NDArray[np.float64]:
    """`[up, 2 * reach]`: per phase, weights of the samples `1 - reach` to `reach` after the one before a place."""
    scale = min(1.0, up / down)
    width = CROSSINGS / scale
    reach = math.ceil(width)
    offsets = np.arange(1 - reach, reach + 1, dtype=np.float64)
    distance = np.abs(np.arange(up, dtype=np.float64)[:, None] / up - offsets[None, :])
    cutoff = CUTOFF * scale
    angle = cutoff * distance
    with np.errstate(invalid="ignore"):
        sinc = np.where(angle == 0, 1.0, sine_of_pi(angle) / (math.pi * angle))
    edge = sine_of_pi((1 - distance / width) / 2)
    weights = np.where(distance < width, sinc * (edge * edge), 0.0)
    totals = np.cumsum(weights, axis=1)[:, -1:]
    return np.asarray(weights / totals)


def sine_of_pi(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """sin(pi * x), the same double in every runtime."""
    turn = x - 2 * np.floor(x / 2)
    sign = np.where(turn >= 1, -1.0, 1.0)
    half = np.where(turn >= 1, turn - 1, turn)
    z = np.where(half > 0.5, 1 - half, half) * math.pi
    square = z * z
    result = np.full_like(z, _SINE[-1])
    for coefficient in reversed(_SINE[:-1]):
        result = result * square + coefficient
    return np.asarray(sign * (result * z))


def windows(samples: Samples, longest: int, rate: int) -> list[tuple[int, int]]:
    """(start, end) of parts of at most `longest` samples, cut where it is most quiet in the last third."""
    parts: list[tuple[int, int]] = []
    start = 0
    while len(samples) - start > longest:
        end = start + _quietest(samples[start : start + longest], rate)
        parts.append((start, end))
        start = end
    if start < len(samples):
        parts.append((start, len(samples)))
    return parts


def _quietest(samples: Samples, rate: int) -> int:
    frame = max(1, rate // _FRAMES_PER_SECOND)
    low = 2 * len(samples) // 3
    count = (len(samples) - low) // frame
    if count == 0:
        return len(samples)
    frames = samples[low : low + count * frame].astype(np.float64).reshape(count, frame)
    energy = np.cumsum(frames * frames, axis=1)[:, -1]
    last = count - 1 - int(np.argmin(energy[::-1]))
    return low + last * frame + frame // 2
