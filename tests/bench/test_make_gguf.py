"""The Q4_0 file that llama.cpp gets is the same model in another format."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

SCRIPT = Path(__file__).parents[2] / "bench" / "make_gguf.py"
ROWS, COLUMNS = 4, 64


@pytest.fixture
def convert() -> Callable[[Path, Path], None]:
    function: Callable[[Path, Path], None] = runpy.run_path(str(SCRIPT))["convert"]
    return function


@pytest.fixture
def source(tmp_path: Path) -> Path:
    random = np.random.default_rng(7)
    path = tmp_path / "source.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_token_list(["a", "b", "c", "d"])
    writer.add_token_scores([0.5, 1.5, 2.5, 3.5])
    writer.add_tensor("output_norm.weight", np.ones(COLUMNS, np.float32))
    for name in ("token_embd.weight", "blk.0.attn_q.weight"):
        matrix = random.standard_normal((ROWS, COLUMNS), dtype=np.float32)
        writer.add_tensor(name, gguf.quants.quantize(matrix, Type.Q4_1), raw_dtype=Type.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _values(path: Path) -> dict[str, np.ndarray]:
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(path).tensors
    }


def test_matrices_are_requantized_and_the_rest_is_kept(
    convert: Callable[[Path, Path], None], source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target.gguf"
    convert(source, target)
    kinds = {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(target).tensors}
    assert kinds == {
        "output_norm.weight": Type.F32,
        "token_embd.weight": Type.Q8_0,
        "blk.0.attn_q.weight": Type.Q4_0,
    }
    before, after = _values(source), _values(target)
    np.testing.assert_array_equal(after["output_norm.weight"], before["output_norm.weight"])
    np.testing.assert_allclose(after["token_embd.weight"], before["token_embd.weight"], atol=0.02)
    np.testing.assert_allclose(after["blk.0.attn_q.weight"], before["blk.0.attn_q.weight"], atol=0.4)


def test_metadata_is_copied(convert: Callable[[Path, Path], None], source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.gguf"
    convert(source, target)
    before, after = gguf.GGUFReader(source).fields, gguf.GGUFReader(target).fields
    assert before.keys() == after.keys()
    for name in before.keys() - {"general.file_type"}:
        assert before[name].contents() == after[name].contents()
        assert before[name].types == after[name].types
    assert after["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q4_0


def test_a_file_that_cannot_be_read_leaves_nothing(convert: Callable[[Path, Path], None], tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    source.write_bytes(b"GGUF, or so it says")
    with pytest.raises(ValueError):
        convert(source, tmp_path / "target.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["source.gguf"]
