from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgec.compress.ranks import ranks, spearman
from edgec.errors import UsageError
from edgec.eval.similarity import Pair, read_pairs, sts_spearman

PAIRS = [Pair('a "quoted', "b, c", 5.0), Pair("d", "e", 0.5)]


def test_the_original_sts_file(tmp_path: Path) -> None:
    file = tmp_path / "sts-test.csv"
    file.write_text('main\tx\t2012\t1\t5.000\ta "quoted\tb, c\nmain\tx\t2012\t2\t0.5\td\te\tsource\n')
    assert read_pairs(file) == PAIRS


@pytest.mark.parametrize(
    "text",
    [
        'sentence1,sentence2,score\n"a ""quoted","b, c",5\nd,e,0.5\n',
        '\ufeffindex\tsplit\tscore\tsentence1\tsentence2\n0\ttest\t5\ta "quoted\tb, c\n1\ttest\t0.5\td\te\n',
        '"a ""quoted","b, c",5\nd,e,0.5\n',
    ],
)
def test_other_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "pairs").write_text(text)
    assert read_pairs(tmp_path / "pairs") == PAIRS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b\n", "2 columns"),
        ("a,b,c\n", "no pair with a score"),
        ("sentence1,sentence2,score\na,b\n", "no pair with a score"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pairs").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_pairs(tmp_path / "pairs")
    with pytest.raises(UsageError, match="cannot be read"):
        read_pairs(tmp_path / "missing")


def test_ranks_share_ties() -> None:
    assert ranks([10, 20, 10, 5]).tolist() == [2.5, 4, 2.5, 1]


def test_spearman() -> None:
    assert spearman([1, 2, 3], [10, 20, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 1, 1], [3, 2, 1]) == 0
    # ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4
    assert spearman([1, 2, 2, 4], [0.1, 0.3, 0.2, 0.4]) == pytest.approx(4.5 / np.sqrt(4.5 * 5))


def test_cosine_against_scores() -> None:
    angles = {"x": 0.0, "near": 0.1, "far": 1.0, "opposite": 3.0}

    def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.array([[7 * np.cos(angles[text]), 7 * np.sin(angles[text])] for text in texts], np.float32)

    pairs = [Pair("x", "near", 5), Pair("x", "far", 3), Pair("x", "opposite", 0)] * 30
    seen: list[int] = []
    assert sts_spearman(embed, pairs, progress=seen.append) == pytest.approx(1)
    assert sum(seen) == 90
    with pytest.raises(UsageError, match="two pairs"):
        sts_spearman(embed, pairs[:1])
