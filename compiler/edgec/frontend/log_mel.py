"""Whisper's log-mel spectrogram as nodes of the graph, so that every runtime computes the same from samples.

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022), section 2.2; the filters are those
of Slaney's Auditory Toolbox, as librosa and `transformers` have them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgec.errors import UnsupportedError
from edgec.frontend.values import Values

_FLOOR = 1e-10  # of the power, before the logarithm
_RANGE = 8.0  # powers of ten below the loudest


class Nodes(Protocol):
    """Where the nodes go."""

    def add(self, op_type: str, inputs: list[ir.Value], name: str, **attributes: ir.Attr) -> ir.Value: ...

    def constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value: ...


@dataclass(frozen=True)
class LogMel:
    bins: int  # of the result
    fft: int  # samples of a frame
    hop: int  # samples between frames
    frames: int
    sample_rate: int

    @property
    def samples(self) -> int:
        return self.frames * self.hop

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> LogMel:
        """From `preprocessor_config.json`; raises `ModelError` without its numbers, `UnsupportedError` for others."""
        kind = settings.get("feature_extractor_type")
        if kind != "WhisperFeatureExtractor":
            raise UnsupportedError(
                f"the feature extractor is {kind!r}",
                hint="supported is `WhisperFeatureExtractor`, described by a `preprocessor_config.json`",
            )
        if settings.get("dither"):
            raise UnsupportedError("the feature extractor adds noise (`dither`)")
        values = Values(settings)
        hop, rate = values.integer("hop_length"), values.integer("sampling_rate")
        frames = values.integer("chunk_length") * rate // hop
        return cls(values.integer("feature_size"), values.integer("n_fft"), hop, frames, rate)

    def build(self, nodes: Nodes, audio: ir.Value) -> ir.Value:
        """float32 `[1, bins, frames]` of `audio`, float32 `[1, frames * hop]`."""

        def integers(name: str, *values: int) -> ir.Value:
            return nodes.constant(f"mel/{name}", np.array(values, np.int64))

        def number(name: str, value: float) -> ir.Value:
            return nodes.constant(f"mel/{name}", np.array(value, np.float32))

        count = itertools.count()

        def step(op_type: str, *inputs: ir.Value, **attributes: ir.Attr) -> ir.Value:
            return nodes.add(op_type, list(inputs), f"mel/{op_type}/{next(count)}", **attributes)

        half = self.fft // 2
        window = np.hanning(self.fft + 1)[:-1].astype(np.float32)
        padded = step("Pad", audio, integers("pads", 0, half, 0, half), mode=ir.AttrString("mode", "reflect"))
        signal = step("Unsqueeze", padded, integers("last", -1))
        spectrum = step(
            "STFT",
            signal,
            nodes.constant("mel/hop", np.array(self.hop, np.int64)),
            nodes.constant("mel/window", window),
            nodes.constant("mel/length", np.array(self.fft, np.int64)),
        )
        first = step("Slice", spectrum, integers("start", 0), integers("frames", self.frames), integers("axis", 1))
        squares = step("Mul", first, first)
        power = step("ReduceSum", squares, integers("complex", -1), keepdims=ir.AttrInt64("keepdims", 0))
        turned = step("Transpose", power, perm=ir.AttrInt64s("perm", [0, 2, 1]))
        filters = nodes.constant("mel/filters", mel_filters(self.bins, self.fft, self.sample_rate))
        mel = step("MatMul", filters, turned)
        logs = step("Log", step("Max", mel, number("floor", _FLOOR)))
        tens = step("Mul", logs, number("log10", 1 / math.log(10)))
        loudest = step("ReduceMax", tens, keepdims=ir.AttrInt64("keepdims", 1))
        bounded = step("Max", tens, step("Sub", loudest, number("range", _RANGE)))
        return step("Mul", step("Add", bounded, number("shift", 4.0)), number("scale", 0.25))


def mel_filters(bins: int, fft: int, sample_rate: int) -> npt.NDArray[np.float32]:
    """`[bins, fft / 2 + 1]`: triangles from 0 to half the rate, each of area 1."""
    edges = _to_hertz(np.linspace(0.0, _to_mel(sample_rate / 2), bins + 2))
    frequencies = np.linspace(0.0, sample_rate / 2, fft // 2 + 1)
    rising = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return np.asarray(triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None], np.float32)


_LINEAR = 3 / 200  # mels per hertz up to 1,000 hertz
_STEP = math.log(6.4) / 27  # of the logarithm per mel from there on


def _to_mel(hertz: float) -> float:
    return hertz * _LINEAR if hertz < 1000 else 15.0 + math.log(hertz / 1000) / _STEP


def _to_hertz(mels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(mels < 15, mels / _LINEAR, 1000.0 * np.exp(_STEP * (mels - 15)))


__all__ = ["LogMel", "mel_filters"]
