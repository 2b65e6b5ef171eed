"""A float decoder seen through the tokens of a model that has only some of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgec.errors import UsageError
from edgec.eval.language import Logits
from edgec.eval.reference import ReferenceDecoder
from edgec.run.tokenizer import Tokenizer


class RestrictedDecoder:
    """`logits` takes and gives the ids of `tokenizer`, whose tokens the reference's own tokenizer has too.

    Raises `UsageError` where it does not.
    """

    def __init__(self, reference: ReferenceDecoder, tokenizer: Tokenizer, own: Tokenizer) -> None:
        ids = own.ids()
        self._reference = reference
        texts = tokenizer.ids()
        missing = next((text for text in texts if text not in ids), None)
        if missing is not None:
            raise UsageError(
                f"the bundle has the token `{missing}`, the float model does not",
                hint="name the model that the bundle was made from",
            )
        self._kept = np.zeros(max(texts.values()) + 1, np.int64)
        for text, index in texts.items():
            self._kept[index] = ids[text]

    def logits(self, ids: Sequence[int]) -> Iterator[Logits]:
        """Of the bundle's tokens alone, float32 [tokens], after each of `ids`."""
        for row in self._reference.logits([int(self._kept[i]) for i in ids]):
            yield row[self._kept]


__all__ = ["RestrictedDecoder"]
