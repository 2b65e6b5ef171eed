import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Tokenizer, pre_tokenizers

from edgec.errors import CorruptFileError, ModelError, UnsupportedError
from edgec.frontend import load
from edgec.frontend.gguf_file import GGUFFile
from edgec.frontend.gguf_metadata import Metadata
from edgec.frontend.gguf_tokenizer import read_tokenizer, tokenizer_problems
from edgec.frontend.problems import refuse
from edgec.ir.model import TokenizerAssets

NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6
TEXTS = [
    "Once upon a time, there was a little girl named Lily.",
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n",
    "Don't they'VE 3.14 $5,000 !!??  two  spaces\ttab\r\n\r\n x",
    "Ünïcode 日本語 123 4567 😀👍🏽 é e\u0301 ½²٣",
    "   lead and trail   ",
    "def f(x):\n    return x**2  # squared\n",
    "",
]


def write(path: Path, model: str, tokens: Sequence[str], types: Sequence[int], **metadata: Any) -> Path:
    """A file with nothing but a tokenizer; keys are those after `tokenizer.ggml.`."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list(list(tokens))
    writer.add_token_types(list(types))
    for key, value in metadata.items():
        name = f"tokenizer.ggml.{key}"
        match value:
            case bool():
                writer.add_bool(name, value)
            case int():
                writer.add_uint32(name, value)
            case str():
                writer.add_string(name, value)
            case list():
                writer.add_array(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path: Path) -> TokenizerAssets:
    metadata = Metadata(GGUFFile(path))
    refuse(path.name, tokenizer_problems(metadata))
    assets = read_tokenizer(metadata, vocabulary=1 << 20)
    assert assets is not None
    return assets


def tokenizer_of(assets: TokenizerAssets) -> Tokenizer:
    return Tokenizer.from_str(assets.tokenizer_json.decode())


def byte_level(path: Path, pre: str, *, merges: Sequence[str] = (), **metadata: Any) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = [merge.replace(" ", "") for merge in merges]
    tokens = ["<|end|>", *alphabet, *merged]
    types = [CONTROL] + [NORMAL] * (len(tokens) - 1)
    given = {"pre": pre, "merges": list(merges) or ["t h"], "eos_token_id": 0, "bos_token_id": 0, **metadata}
    if not merges:
        tokens.append("th")
        types.append(NORMAL)
    return tokenizer_of(read(write(path, "gpt2", tokens, types, **given)))


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> TokenizerAssets:
    assets = load(smollm2_gguf).tokenizer
    assert assets is not None
    return assets


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """What the pre-tokenizer makes of a text, spaces shown as they are."""
    return [piece.replace("Ġ", " ") for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


class TestSmolLM2:
    def test_same_ids_as_the_original(self, smollm2: TokenizerAssets) -> None:
        """The model's own `tokenizer.json` splits by these two steps, which GGUF calls `smollm`."""
        definition = json.loads(smollm2.tokenizer_json)
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        steps = [{"type": "Digits", "individual_digits": True}, byte_level]
        definition["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
        original, ours = Tokenizer.from_str(json.dumps(definition)), tokenizer_of(smollm2)
        for text in TEXTS:
            assert ours.encode(text).ids == original.encode(text).ids, text

    def test_known_ids(self, smollm2: TokenizerAssets) -> None:
        ids = tokenizer_of(smollm2).encode("<|im_start|>user\nThe capital of France is Paris.<|im_end|>").ids
        assert ids == [1, 4093, 198, 504, 3575, 282, 4649, 314, 7042, 30, 2]

    def test_texts_come_back(self, smollm2: TokenizerAssets) -> None:
        tokenizer = tokenizer_of(smollm2)
        for text in TEXTS:
            assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text

    def test_special_tokens_and_template(self, smollm2: TokenizerAssets) -> None:
        assert smollm2.eos_token_ids == (2,)
        assert (smollm2.bos_token_id, smollm2.pad_token_id) == (1, 2)
        assert smollm2.special_tokens["eos_token"] == "<|im_end|>"
        assert smollm2.chat_template is not None and "SmolLM" in smollm2.chat_template


class TestByteLevel:
    def test_digits_one_by_one(self, tmp_path: Path) -> None:
        assert pieces(byte_level(tmp_path / "t.gguf", "smollm"), "x 123") == ["x", " ", "1", "2", "3"]

    def test_digits_in_threes(self, tmp_path: Path) -> None:
        assert pieces(byte_level(tmp_path / "t.gguf", "llama-bpe"), "x 12345") == ["x", " ", "123", "45"]

    def test_composed_characters(self, tmp_path: Path) -> None:
        tokenizer = byte_level(tmp_path / "t.gguf", "qwen2")
        assert tokenizer.encode("e\u0301").ids == tokenizer.encode("é").ids

    def test_merges_apply_in_order(self, tmp_path: Path) -> None:
        tokenizer = byte_level(tmp_path / "t.gguf", "gpt-2", merges=["t h", "th e", "h e"])
        assert tokenizer.encode("the he").tokens == ["the", "Ġ", "he"]

    def test_begin_of_sequence_only_where_asked_for(self, tmp_path: Path) -> None:
        assert byte_level(tmp_path / "a.gguf", "smollm").encode("x").tokens == ["x"]
        assert byte_level(tmp_path / "b.gguf", "smollm", add_bos_token=True).encode("x").tokens == ["<|end|>", "x"]
        assert byte_level(tmp_path / "c.gguf", "llama-bpe").encode("x").tokens == ["<|end|>", "x"]
        assert byte_level(tmp_path / "d.gguf", "smollm", add_eos_token=True).encode("x").tokens == ["x", "<|end|>"]

    def test_unknown_pre_tokenizer(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedError, match=r"`tokenizer.ggml.pre` is 'tekken' \(supported: .*smollm"):
            byte_level(tmp_path / "t.gguf", "tekken")

    def test_merge_of_unknown_tokens(self, tmp_path: Path) -> None:
        path = write(tmp_path / "t.gguf", "gpt2", ["a", "b"], [NORMAL] * 2, pre="gpt-2", merges=["a b"])
        with pytest.raises(CorruptFileError, match="merge 0"):
            read(path)


class TestSentencePiece:
    TOKENS = ("<unk>", "<s>", "</s>", "<0x0A>", "<0x41>", "▁", "a", "b", "ab", "▁a", "▁ab", "<tool>")
    SCORES = (0.0, 0.0, 0.0, 0.0, 0.0, -9.0, -10.0, -11.0, -1.0, -2.0, -3.0, 0.0)
    TYPES = (UNKNOWN, CONTROL, CONTROL, BYTE, BYTE, NORMAL, NORMAL, NORMAL, NORMAL, NORMAL, NORMAL, USER)

    def tokenizer(self, path: Path, **metadata: Any) -> Tokenizer:
        given = {"scores": list(self.SCORES), "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, **metadata}
        return tokenizer_of(read(write(path, "llama", self.TOKENS, self.TYPES, **given)))

    def test_best_scores_first(self, tmp_path: Path) -> None:
        # "▁a" would come first from the left, but "ab" has the better score.
        assert self.tokenizer(tmp_path / "t.gguf").encode("ab").tokens == ["<s>", "▁ab"]
        assert self.tokenizer(tmp_path / "u.gguf").encode("a b").tokens == ["<s>", "▁a", "▁", "b"]

    def test_bytes_for_what_is_no_token(self, tmp_path: Path) -> None:
        tokenizer = self.tokenizer(tmp_path / "t.gguf")
        encoded = tokenizer.encode("aA\n")
        assert encoded.tokens == ["<s>", "▁a", "<0x41>", "<0x0A>"]
        assert tokenizer.decode(encoded.ids) == "aA\n"

    def test_no_space_in_front(self, tmp_path: Path) -> None:
        assert self.tokenizer(tmp_path / "t.gguf", add_space_prefix=False).encode("a").tokens == ["<s>", "a"]

    def test_user_defined_tokens_are_found_in_the_text(self, tmp_path: Path) -> None:
        tokenizer = self.tokenizer(tmp_path / "t.gguf", add_bos_token=False, add_space_prefix=False)
        encoded = tokenizer.encode("a<tool>b</s>")
        assert encoded.tokens == ["a", "<tool>", "b", "</s>"]
        assert tokenizer.decode(encoded.ids) == "a<tool>b"

    def test_missing_scores(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="12 tokens but 0 scores"):
            read(write(tmp_path / "t.gguf", "llama", self.TOKENS, self.TYPES, bos_token_id=1))


class TestMetadata:
    def test_original_definition_wins(self, tiny_llama: Path, tmp_path: Path) -> None:
        original = (tiny_llama / "tokenizer.json").read_text()
        writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
        writer.add_tokenizer_model("unheard-of")
        writer.add_token_list(["<|start|>", "<|end|>"])
        writer.add_string("tokenizer.huggingface.json", original)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        assert json.loads(read(tmp_path / "t.gguf").tokenizer_json)["model"] == json.loads(original)["model"]

    def test_all_end_tokens(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "t.gguf", "gpt2", ["a", "b", "ab"], [NORMAL] * 3, pre="gpt-2", merges=["a b"], eos_token_id=2,
            eot_token_id=1, eom_token_id=2,
        )  # fmt: skip
        assert read(path).eos_token_ids == (2, 1)

    def test_id_beyond_the_vocabulary(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "t.gguf", "gpt2", ["a", "b", "ab"], [NORMAL] * 3, pre="gpt-2", merges=["a b"], eos_token_id=3
        )
        with pytest.raises(ModelError, match=r"`tokenizer\.ggml\.eos_token_id` is 3, but there are 3 tokens"):
            read(path)

    def test_types_of_another_length(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="2 tokens but 1 token types"):
            read(write(tmp_path / "t.gguf", "gpt2", ["a", "b"], [NORMAL], merges=["a b"]))

    def test_unknown_kind(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedError, match=r"`tokenizer\.ggml\.model` is 'bert' \(supported: gpt2, llama\)"):
            read(write(tmp_path / "t.gguf", "bert", ["a"], [NORMAL]))
