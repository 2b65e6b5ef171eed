"""Calibration data: the user's, or the model's own, always the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgec.compress import generated_samples, read_samples
from edgec.compress.calibration.generate import generated_windows
from edgec.errors import UsageError
from edgec.eval import ReferenceDecoder
from edgec.frontend import load
from edgec.ir.model import ModelIR
from edgec.passes import simplify
from tests.compress.graphs import UINT8, convolution_model, picture_model, tied_text_model


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> ModelIR:
    return simplify(load(str(tiny_llama)))


def ids_of(samples: list) -> list[list[int]]:
    return [sample["input_ids"][0].tolist() for sample in samples]


def test_enough_rounds_give_what_sampling_one_by_one_gives(llama: ModelIR) -> None:
    """A position's random number is fixed, so Jacobi iteration ends at the sequential sample."""
    (window,) = generated_windows(llama, [0], 12, [0], rounds=12)
    uniform = np.random.default_rng([20221031, 0])
    uniform.integers(0, 288, 11)
    draws = uniform.random(12)
    ids = [0]
    with ReferenceDecoder(llama) as reference:
        for position in range(1, 12):
            logits = reference.step(ids[-1:])[-1].astype(np.float64)
            share = np.cumsum(np.exp(logits - logits.max()))
            ids.append(int((share < draws[position] * share[-1]).sum()))
    assert window == ids


def test_generated_samples_are_the_same_each_time(llama: ModelIR) -> None:
    first, second = generated_samples(llama), generated_samples(llama)
    assert ids_of(first) == ids_of(second)
    assert len(first) * first[0]["input_ids"].shape[1] >= 2048
    assert len({tuple(ids) for ids in ids_of(first)}) == len(first)


def test_texts_are_cut_into_windows(llama: ModelIR, tmp_path: Path) -> None:
    text = "All happy families are alike. " * 20
    (tmp_path / "t.txt").write_text(text)
    samples = read_samples(llama, tmp_path / "t.txt")
    assert [sample["input_ids"].shape[1] for sample in samples] == [256, 256, 88]
    assert samples[0]["position_ids"].tolist() == [list(range(256))]
    assert samples[0]["past_key_values.0.key"].shape == (1, 2, 0, 16)


def test_encoders_read_lines(minilm_folder: Path, tmp_path: Path) -> None:
    model = load(str(minilm_folder))
    (tmp_path / "t.txt").write_text("A man plays a guitar.\n\nTwo dogs run.\n")
    samples = read_samples(model, tmp_path / "t.txt")
    assert ids_of(samples) == [[101, 1037, 2158, 3248, 1037, 2858, 1012, 102], [101, 2048, 6077, 2448, 1012, 102]]
    assert samples[1]["attention_mask"].tolist() == [[1] * 6]
    assert samples[1]["token_type_ids"].dtype == np.int64


def test_arrays_by_input_name(tmp_path: Path) -> None:
    model, file = convolution_model(), tmp_path / "a.npz"
    images = np.random.default_rng(2).standard_normal((3, 5, 8, 8)).astype(np.float32)
    np.savez(file, image=images)
    samples = read_samples(model, file)
    assert [sample["image"].shape for sample in samples] == [(1, 5, 8, 8)] * 3
    np.testing.assert_array_equal(samples[2]["image"], images[2:])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"picture": np.zeros((1, 5, 8, 8), np.float32)}, "has the arrays `picture`.*inputs `image`"),
        ({"image": np.zeros((1, 5, 8, 9), np.float32)}, r"\[1, 5, 8, 9\], expected float32 \[any, 5, 8, 8\]"),
        ({"image": np.zeros((1, 5, 8, 8), np.float64)}, "is float64"),
        ({"image": np.zeros((0, 5, 8, 8), np.float32)}, "same number of samples, or none"),
        ({"image": np.full((1, 5, 8, 8), np.nan, np.float32)}, "not finite"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UsageError, match=message):
        read_samples(convolution_model(), tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe\x00", "neither a text"), (b"PK\x03\x04nonsense", "not a readable .npz"), (b"", "too short")],
)
def test_files_that_are_no_calibration_data(llama: ModelIR, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_samples(llama, tmp_path / "f")


def test_files_that_are_not_there_and_models_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_samples(tied_text_model(), tmp_path / "none.txt")
    (tmp_path / "t.txt").write_text("text")
    with pytest.raises(UsageError, match="no tokenizer"):
        read_samples(tied_text_model(), tmp_path / "t.txt")


def test_folders_of_pictures(tmp_path: Path) -> None:
    """Each as the model's task says, evenly spread where there are too many."""
    for number in range(200):
        Image.new("RGB", (3, 2), (number, 0, 255)).save(tmp_path / f"{number:03}.png")
    (tmp_path / "index.csv").write_text("no picture")
    samples = read_samples(picture_model(), tmp_path)
    assert [set(sample) for sample in samples] == [{"image"}] * 128
    reds = [number * 200 // 128 for number in range(128)]
    for sample, red in zip(samples, reds, strict=True):
        wanted = ((np.array([red, 0, 255], np.float64) - 127) / 128).astype(np.float32)
        assert sample["image"].dtype == np.float32
        np.testing.assert_array_equal(sample["image"], np.broadcast_to(wanted[None, :, None, None], (1, 3, 4, 6)))
    (raw, *_) = read_samples(picture_model(dtype=UINT8), tmp_path)
    assert raw["image"].dtype == np.uint8
    assert raw["image"][0, :, 0, 0].tolist() == [0, 0, 255]


def test_folders_that_are_no_calibration_data(llama: ModelIR, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no pictures"):
        read_samples(picture_model(), tmp_path)
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="does not say how a picture becomes its input"):
        read_samples(llama, tmp_path)
    with pytest.raises(UsageError, match=r"a.png` is float32 \[1, 3, 4, 6\], expected float32 \[any, 4, 4, 6\]"):
        read_samples(picture_model(channels=4), tmp_path)
    (tmp_path / "b.jpg").write_bytes(b"nonsense")
    with pytest.raises(UsageError, match=r"b.jpg` cannot be read"):
        read_samples(picture_model(), tmp_path)
