from __future__ import annotations

from pathlib import Path

import pytest

from edgec import profiles
from edgec.errors import UsageError
from edgec.matrix import read_matrix
from edgec.resources import profiles_directory

MATRIX = """
output = "out"
profiles = ["phone-4gb", "laptop-8gb"]
quantizer = "rtn"
eval = { text = "all.txt", tokens = 64 }

[models.small]
source = "small.gguf"
bits = 4

[models.other]
source = "org/other"
profiles = ["phone-8gb"]
eval = {}
max_dim = { sequence = 128 }

[[cells]]
model = "small"
profile = "phone-4gb"
quantizer = "gptq"
calibration = "chats.txt"
"""


def written(folder: Path, text: str = MATRIX) -> Path:
    file = folder / "matrix.toml"
    file.write_text(text)
    return file


def test_options_of_all_of_a_model_and_of_a_cell(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(b"")
    first, second, third = read_matrix(written(tmp_path), tmp_path / "cache")
    assert [first.label, second.label, third.label] == [
        "small for phone-4gb",
        "small for laptop-8gb",
        "other for phone-8gb",
    ]
    assert first.source == second.source == str(tmp_path / "small.gguf") and third.source == "org/other"
    assert first.output == str(tmp_path / "out" / "small-phone-4gb.edgec")
    text = str(tmp_path / "chats.txt")
    assert first.options == {"name": "small", "quantizer": "gptq", "bits": 4, "calibration": text}
    assert second.options == {"name": "small", "quantizer": "rtn", "bits": 4}
    assert third.options == {"name": "other", "quantizer": "rtn", "max_dims": {"sequence": 128}}
    assert first.measure == {"text": str(tmp_path / "all.txt"), "tokens": 64} and third.measure == {}
    assert first.cache == str(tmp_path / "cache")
    assert read_matrix(written(tmp_path), None)[0].cache is None


def test_a_profile_beside_the_matrix(tmp_path: Path) -> None:
    text = (profiles_directory() / "phone-8gb.toml").read_text().replace('"phone-8gb"', '"board"')
    (tmp_path / "board.toml").write_text(text)
    [cell] = read_matrix(written(tmp_path, 'profiles = ["board.toml"]\n[models.a]\nsource = "a"'), None)
    assert profiles.load(cell.profile).name == "board"
    assert cell.output == str(tmp_path / "bundles" / "a-board.edgec")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('output = "out"', "output = 3", "`output` is `3`, allowed is a text"),
        ('quantizer = "rtn"', 'quantiser = "rtn"', "`quantiser` is not a key\n  hint: did you mean `quantizer`"),
        ('quantizer = "rtn"', "nested = [4]", "`nested` is `[4]`, allowed is `[3]`"),
        ('quantizer = "rtn"', 'quantizer = "best"', "`quantizer` is `best`, allowed is `rtn`"),
        ("bits = 4", "bits = 9", "`models.small.bits` is `9`"),
        ("bits = 4", "bits = true", "`models.small.bits` is `True`"),
        ("bits = 4", 'target_size = "big"', '`models.small.target_size` is `big`, allowed is a size such as "60MB"'),
        ("bits = 4", "target_bpw = 1", "`models.small.target_bpw` is `1`, allowed is a number from 1.7"),
        ('source = "small.gguf"', "", "`models.small.source` is missing"),
        ('"phone-8gb"', '"phone-9gb"', "`models.other.profiles` names a profile that cannot be used"),
        ('["phone-8gb"]', "[]", "`models.other.profiles` lists no device"),
        ('["phone-8gb"]', '["phone-8gb", "phone-8gb"]', "give `other` the output"),
        ('model = "small"', 'model = "smal"', "`cells[0].model` is `smal`, allowed is `small`, `other`"),
        ('model = "small"', 'model = "other"', "has `other` for `phone-4gb`, which is not in the matrix"),
        ("eval = {}", 'eval = { txt = "a" }', "`models.other.eval.txt` is not a key"),
        ("max_dim = { sequence = 128 }", "max_dim = { sequence = 0 }", "`models.other.max_dim` is"),
        ("[models.other]", '[models."../x"]', "`models.../x` is no name for files"),
        ("[models.small]", "[models.small", "is not valid TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in MATRIX
    file = written(tmp_path, MATRIX.replace(old, new))
    with pytest.raises(UsageError) as caught:
        read_matrix(file, None)
    assert message in str(caught.value) and str(file) in str(caught.value)


def test_nothing_to_compile(tmp_path: Path) -> None:
    for text in ("", "models = 3", "[models]"):
        with pytest.raises(UsageError, match="lists no model"):
            read_matrix(written(tmp_path, text), None)
    with pytest.raises(UsageError, match="cannot be read"):
        read_matrix(tmp_path / "none.toml", None)
