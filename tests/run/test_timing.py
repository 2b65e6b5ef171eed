from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import edgec
from edgec import bundle
from edgec.errors import BundleError, UsageError
from edgec.run.decoder import DecoderState
from edgec.run.engine import Engine
from edgec.run.timing import START, TimedEngine, read_kernels, time_decoder

IDS = [5, 99, 255, 1, 2, 97, 98] * 6


def marks_of(kernels: dict[str, dict[str, dict[str, list[dict[str, object]]]]], entry: str) -> list[object]:
    """What an entry point should mark."""
    marks: list[object] = [START]
    for call in kernels["entries"][entry]["calls"]:
        marks += marks_of(kernels, str(call["enter"])) if "enter" in call else [call["mark"]]
    return marks


@pytest.mark.parametrize("variant", ["simd128", "relaxed", "relaxed16"])
def test_every_call_is_timed_where_it_runs(tiny_marked_bundle: Path, variant: str) -> None:
    with TimedEngine(bundle.read(tiny_marked_bundle), variant=variant) as engine:
        _, steps = time_decoder(engine, IDS, tokens=5, repeat=2)
        chunk = engine.manifest.prefill_chunk
        assert len(IDS) <= chunk
        wanted = [("prefill", [len(IDS), 0]), ("head", [len(IDS) - 1])]
        wanted += [("decode", [len(IDS) + number]) for number in range(4)]
        assert [(step.entry, list(step.parameters)) for step in steps] == wanted
        for step in steps:
            assert list(step.marks) == marks_of(engine.kernels, step.entry)
            assert all(before <= after for before, after in zip(step.times, step.times[1:], strict=False))
            assert 0 < step.times[-1] - step.times[0] <= step.seconds


def logits(engine: Engine) -> npt.NDArray[np.float32]:
    state = DecoderState(engine)
    state.prompt(IDS)
    return state.logits()


def test_marks_change_no_result(tiny_bundle: Path, tiny_marked_bundle: Path) -> None:
    with Engine(bundle.read(tiny_bundle), threads=1) as plain, TimedEngine(bundle.read(tiny_marked_bundle)) as timed:
        np.testing.assert_array_equal(logits(plain), logits(timed))


def test_other_bundles_hold_nothing_of_it(tiny_bundle: Path, tiny_marked_bundle: Path) -> None:
    plain, marked = bundle.read(tiny_bundle), bundle.read(tiny_marked_bundle)
    assert plain.manifest.modules == marked.manifest.modules
    for variant in plain.manifest.modules:
        assert read_kernels(plain.module(variant)) is None and b"profile" not in plain.module(variant)
        assert set(read_kernels(marked.module(variant)) or {}) == {"entries"}
    assert plain.manifest.weights == marked.manifest.weights


def test_a_bundle_without_marks_cannot_be_timed(tiny_bundle: Path) -> None:
    with pytest.raises(UsageError, match="cannot be timed") as caught:
        TimedEngine(bundle.read(tiny_bundle))
    assert "--profile-kernels" in (caught.value.hint or "")


def test_a_bundle_with_marks_does_nothing_else(tiny_marked_bundle: Path) -> None:
    with pytest.raises(BundleError, match="--profile-kernels"):
        edgec.load(tiny_marked_bundle)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_damaged_section(content: bytes) -> None:
    body = b"\x0dedgec.kernels" + content
    with pytest.raises(BundleError, match="damaged"):
        read_kernels(b"\0asm\1\0\0\0\x00" + bytes([len(body)]) + body)
