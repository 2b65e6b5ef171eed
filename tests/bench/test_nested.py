"""Rows survive being kept, and the page compares each depth with its bits alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from nested import Row, Score, page, read_rows


def test_rows_and_page(tmp_path: Path) -> None:
    scores = [Score(1000, [kl], [kl]) for kl in (0.022, 0.02)]
    row = Row("tiny", "its own text", 4088, (3,), 4, *scores, 2.0, 1.0)
    file = tmp_path / "tiny.json"
    file.write_text(json.dumps([dataclasses.asdict(row)]))
    (read,) = read_rows(file)
    assert dataclasses.asdict(read) | {"depths": (3,)} == dataclasses.asdict(row)
    line = "| tiny | 4,088 of its own text | 4, 3 | 4 | 0.02200 | 0.02000 | +10.0% | +2.22% | +2.02% |"
    assert line in page([read])
