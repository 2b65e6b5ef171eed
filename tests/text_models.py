"""Tiny random models that label texts and pixels, as `transformers` saves them, with tokenizers of three kinds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers as t
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.encoders import spread

LENGTH = 24  # tokens
SIZE = 32  # side of a picture
KINDS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
CORPUS = [
    "Ada Lovelace was born in London, and Angela Merkel in Hamburg.",
    "What do cats eat? Cats eat mice. Cars burn petrol.",
    "naïve café, 東京 and Москва, 😀 isn't it?",
]
_SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": LENGTH + 2,
}  # fmt: skip


def _labels(names: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def _save(model: Any, tokenizer: Tokenizer, folder: Path, **special: str) -> Any:
    fast = t.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LENGTH, **special)
    fast.save_pretrained(folder)
    spread(model, 0.3).save_pretrained(folder)
    return model


def save_nli(folder: Path) -> Any:
    """BERT, a word-piece tokenizer, token types for pairs."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=specials, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    config = t.BertConfig(vocab_size=tokenizer.get_vocab_size(), **_SMALL, **_labels(["no", "maybe", "yes"]))
    model = t.BertForSequenceClassification(config)
    return _save(model, tokenizer, folder, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def save_reranker(folder: Path) -> Any:
    """XLM-RoBERTa with one score, a unigram tokenizer."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(vocab_size=110, special_tokens=specials, unk_token="<unk>", show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", "<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    config = t.XLMRobertaConfig(vocab_size=tokenizer.get_vocab_size(), pad_token_id=1, **_SMALL, **_labels(["LABEL_0"]))
    model = t.XLMRobertaForSequenceClassification(config)
    return _save(model, tokenizer, folder, pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>")


def save_ner(folder: Path) -> Any:
    """RoBERTa, a byte-level tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=320, special_tokens=specials, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )  # fmt: skip
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    config = t.RobertaConfig(vocab_size=tokenizer.get_vocab_size(), pad_token_id=1, **_SMALL, **_labels(KINDS))
    model = t.RobertaForTokenClassification(config)
    return _save(model, tokenizer, folder, pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>")


def save_segformer(folder: Path) -> Any:
    config = t.SegformerConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], decoder_hidden_size=16, num_attention_heads=[1, 2, 3, 4],
        image_size=SIZE, **_labels(["road", "sky", "tree", "car"]),
    )  # fmt: skip
    model = spread(t.SegformerForSemanticSegmentation(config), 0.3)
    model.save_pretrained(folder)
    settings = {"size": {"height": SIZE, "width": SIZE}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({**settings, "image_processor_type": "SegformerImageProcessor"})
    )
    return model
