"""Fewer tokens: texts whose tokens stay are cut as before, all others still can be, and logits are the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.compress.prune.token_choice import covering_ids, most_useful_ids, smallest_vocabulary
from edgec.compress.prune.tokenizer import prune_tokenizer
from edgec.compress.prune.vocabulary import kept_ids, prune_vocabulary, vocabulary_size
from edgec.errors import UnsupportedError, UsageError
from edgec.eval import ReferenceDecoder
from edgec.frontend import load
from edgec.ir.model import ModelIR, TokenizerAssets
from edgec.passes import simplify
from tests.compress.graphs import tied_text_model
from tests.compress.prune.tokenizers_of_kinds import KINDS, TEXT, assets

SOME = "The fox was cold, and the day was quick. Names are alike: café!"


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[TokenizerAssets, list[int], TokenizerAssets]:
    """(whole, ids that stay, pruned) for the text `SOME`."""
    whole = assets(request.param)
    kept = covering_ids(whole, SOME)
    return whole, kept, prune_tokenizer(whole, kept)


def opened(tokenizer: TokenizerAssets) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_buffer(tokenizer.tokenizer_json)


def test_a_covered_text_has_the_same_tokens(kind: tuple[TokenizerAssets, list[int], TokenizerAssets]) -> None:
    whole, kept, pruned = kind
    before, after = opened(whole), opened(pruned)
    assert len(kept) < before.get_vocab_size() and after.get_vocab_size() == len(kept)
    for special in (True, False):
        ids = after.encode(SOME, add_special_tokens=special).ids
        assert [kept[i] for i in ids] == before.encode(SOME, add_special_tokens=special).ids
    assert pruned.eos_token_ids == (after.token_to_id("</s>"),)
    assert pruned.bos_token_id == after.token_to_id("<s>")


def test_any_text_is_understood_as_before(kind: tuple[TokenizerAssets, list[int], TokenizerAssets]) -> None:
    before, after = opened(kind[0]), opened(kind[2])

    @settings(max_examples=150, deadline=None)
    @given(st.one_of(st.text(), st.text(alphabet=TEXT), st.sampled_from(TEXT.split())))
    def same(text: str) -> None:
        expected = before.decode(before.encode(text, add_special_tokens=False).ids)
        assert after.decode(after.encode(text, add_special_tokens=False).ids) == expected

    same()


def test_all_tokens_of_a_text_that_stay_are_cut_as_before(
    kind: tuple[TokenizerAssets, list[int], TokenizerAssets],
) -> None:
    """The induction behind it: whatever text has only tokens that stay."""
    whole, kept, pruned = kind
    before, after = opened(whole), opened(pruned)
    covered = 0
    for word in sorted(set(TEXT.split())):
        ids = before.encode(word, add_special_tokens=False).ids
        if set(ids) <= set(kept):
            covered += 1
            assert [kept[i] for i in after.encode(word, add_special_tokens=False).ids] == ids
    assert covered >= 10


@pytest.mark.parametrize("name", KINDS)
def test_a_number_of_tokens_takes_the_most_frequent_ones(name: str) -> None:
    whole = assets(name)
    least = smallest_vocabulary(whole)
    size = opened(whole).get_vocab_size()
    count = (least + size) // 2
    kept = most_useful_ids(whole, count, SOME)
    assert len(kept) == count == len(set(kept)) and kept == sorted(kept)
    used = opened(whole).encode(SOME * 3 + TEXT).ids
    more = most_useful_ids(whole, count, TEXT)
    assert sum(i in set(more) for i in used) >= sum(i in set(most_useful_ids(whole, count)) for i in used)
    with pytest.raises(UsageError, match=f"alone are {least:,}"):
        most_useful_ids(whole, least - 1)
    with pytest.raises(UsageError, match="prunes nothing"):
        most_useful_ids(whole, size)


def test_the_words_of_the_chat_template_stay() -> None:
    whole = assets("byte-level")
    kept = set(covering_ids(whole, "a"))
    for word in ("user", "assistant", "\n"):
        assert set(opened(whole).encode(word, add_special_tokens=False).ids) <= kept


def test_other_kinds_of_tokenizers_are_refused() -> None:
    whole = assets("byte-level")
    content = json.loads(whole.tokenizer_json)
    content["model"] = {"type": "WordLevel", "vocab": {"a": 0, "<s>": 1}, "unk_token": "a"}
    with pytest.raises(UnsupportedError, match="`WordLevel`"):
        covering_ids(dataclasses.replace(whole, tokenizer_json=json.dumps(content).encode()), "a")


# Models


def decoder(folder: Path, *, tied: bool) -> ModelIR:
    """A random Llama over the byte-level tokenizer, with some rows that no token has."""
    import torch
    import transformers

    whole = assets("byte-level")
    torch.manual_seed(3)
    size = opened(whole).get_vocab_size()
    config = transformers.LlamaConfig(
        vocab_size=size + 9, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=tied, eos_token_id=1,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(whole.tokenizer_json)
    return simplify(load(str(folder)))


@pytest.mark.parametrize("tied", [True, False])
def test_logits_of_the_tokens_that_stay_are_the_same(tmp_path: Path, tied: bool) -> None:
    model = decoder(tmp_path, tied=tied)
    assert model.tokenizer is not None and model.decoder is not None
    assert vocabulary_size(model) == model.decoder.vocabulary
    (tmp_path / "text.txt").write_text(SOME, encoding="utf-8")
    kept = kept_ids(model, tmp_path / "text.txt")
    pruned = prune_vocabulary(model, kept)
    pruned.verify()
    assert pruned.decoder is not None and pruned.decoder.vocabulary == len(kept) < model.decoder.vocabulary
    removed = (model.decoder.vocabulary - len(kept)) * 64 * (1 if tied else 2)
    assert pruned.facts.parameters == model.facts.parameters - removed
    assert pruned.model.graph.outputs[0].shape[-1] == len(kept)
    assert pruned.tokenizer is not None
    ids = opened(pruned.tokenizer).encode(SOME).ids
    with ReferenceDecoder(model) as before, ReferenceDecoder(pruned) as after:
        expected = before.step([kept[i] for i in ids])[:, kept]
        np.testing.assert_allclose(after.step(ids), expected, rtol=1e-5, atol=1e-5)


def test_mistakes_are_said(tmp_path: Path) -> None:
    model = decoder(tmp_path, tied=True)
    with pytest.raises(UsageError, match="cannot be read"):
        kept_ids(model, tmp_path / "no.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not a text"):
        kept_ids(model, tmp_path / "bytes.txt")
    with pytest.raises(UsageError, match="no tokenizer"):
        kept_ids(dataclasses.replace(model, tokenizer=None), 300)


def test_graphs_that_do_more_with_ids_are_refused() -> None:
    model = dataclasses.replace(tied_text_model(), tokenizer=assets("byte-level"))
    model.model.graph.inputs[0].name = "input_ids"
    assert vocabulary_size(model) is None
    with pytest.raises(UnsupportedError, match="more than once"):
        prune_vocabulary(model, range(40))
    model.model.graph.initializers["embed"].name = "table"
    gather = next(node for node in model.model.graph if node.op_type == "Gather")
    gather.attributes["axis"] = onnx_ir.AttrInt64("axis", 1)
    with pytest.raises(UnsupportedError, match="one table"):
        prune_vocabulary(model, range(40))
