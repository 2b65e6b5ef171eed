"""The committed fixtures of the JavaScript tests are what the Python side makes today."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer

from tests.browser import fixtures
from tests.run.fake_module import write_fake_bundle

STALE = "run `python -m tests.browser.fixtures`"


def test_bundles(tmp_path: Path) -> None:
    for kind in ("decoder", "graph", "graphs", "speech", "detector"):
        write_fake_bundle(tmp_path / kind, kind=kind)
        fresh, committed = (_contents(folder / kind) for folder in (tmp_path, fixtures.FOLDER))
        assert fresh == committed, STALE


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_tokenizers() -> None:
    committed = json.loads((fixtures.FOLDER / "tokenizers.json").read_text(encoding="utf-8"))
    assert committed.keys() == fixtures.make_tokenizers().keys(), STALE
    for made in committed.values():
        tokenizer = Tokenizer.from_str(json.dumps(made["tokenizer"]))
        assert fixtures.tokenizer_cases(tokenizer) == made["cases"], STALE


def test_resizes() -> None:
    assert json.loads((fixtures.FOLDER / "resizes.json").read_text()) == fixtures.make_resizes(), STALE


def test_audio() -> None:
    assert json.loads((fixtures.FOLDER / "audio.json").read_text()) == fixtures.make_audio(), STALE
