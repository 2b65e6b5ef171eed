"""A float decoder through the tokens of a pruned one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgec.compress.prune.vocabulary import kept_ids, prune_vocabulary
from edgec.errors import UsageError
from edgec.eval import ReferenceDecoder, RestrictedDecoder
from edgec.run.tokenizer import Tokenizer
from tests.compress.prune.test_vocabulary import SOME, decoder


def test_the_whole_model_through_fewer_tokens_is_the_pruned_one(tmp_path: Path) -> None:
    model = decoder(tmp_path, tied=True)
    (tmp_path / "text.txt").write_text(SOME, encoding="utf-8")
    pruned = prune_vocabulary(model, kept_ids(model, tmp_path / "text.txt"))
    assert model.tokenizer is not None and pruned.tokenizer is not None
    whole, few = Tokenizer(model.tokenizer.tokenizer_json), Tokenizer(pruned.tokenizer.tokenizer_json)
    ids = few.encode_plain(SOME)
    with ReferenceDecoder(model) as reference, ReferenceDecoder(pruned) as small:
        seen = RestrictedDecoder(reference, few, whole)
        for got, expected in zip(seen.logits(ids), small.logits(ids), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
        with pytest.raises(UsageError, match="the float model does not"):
            RestrictedDecoder(small, whole, few)
