"""JavaScript and Python agree about real tokenizers: ids of texts and chats, texts of ids."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgec import bundle, resources
from edgec.compress.prune.token_choice import most_useful_ids
from edgec.compress.prune.tokenizer import prune_tokenizer
from edgec.frontend import gguf, gguf_tokenizer
from edgec.ir import TokenizerAssets
from edgec.run.chat import render_chat
from edgec.run.tokenizer import Tokenizer
from tests.browser import fixtures
from tests.family_tokenizers import TEXTS
from tests.run.fake_module import CHAT_TEMPLATE, make_lowered, make_model, make_plan

pytestmark = pytest.mark.node
ALPHABET = "aAbzZ 019.,'!?\n\t -_/éßİıǅ中文かなأبжẞ😀👩‍🔬\u0301\u200d\u00a0\u3000½²ﬁ"


def random_texts(count: int) -> list[str]:
    choose = random.Random(0)
    return ["".join(choose.choices(ALPHABET, k=choose.randint(1, 40))) for _ in range(count)]


def in_javascript(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    script = Path(__file__).with_name("encode.mjs")
    command = ["node", str(script), str(resources.runtime_directory() / "edgec.js"), str(path)]
    finished = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    answer: dict[str, Any] = json.loads(finished.stdout)
    return answer


def write_bundle(path: Path, assets: TokenizerAssets) -> None:
    model = dataclasses.replace(make_model(), tokenizer=assets)
    bundle.write(make_lowered(), model=model, plan=make_plan(), accuracy={}, report_html=None, out=path)


def compare(path: Path, assets: TokenizerAssets) -> None:
    write_bundle(path, assets)
    tokenizer = Tokenizer(assets.tokenizer_json)
    texts = [text for text in [*fixtures.TEXTS, *TEXTS, *random_texts(300)] if text]
    chats = [[{"role": "system", "content": "be brief"}, {"role": "user", "content": text}] for text in texts[:40]]
    choose = random.Random(1)
    size = len(json.loads(assets.tokenizer_json)["model"]["vocab"])
    ids = [[choose.randrange(size) for _ in range(choose.randint(1, 20))] for _ in range(200)]
    got = in_javascript(path, {"texts": texts, "chats": chats, "ids": ids})
    assert got["texts"] == [tokenizer.encode(text) for text in texts]
    rendered = [
        render_chat(
            assets.chat_template or "",
            chat,
            special_tokens=assets.special_tokens,
            control_tokens=tokenizer.control_tokens,
        )
        for chat in chats
    ]
    assert got["chats"] == [tokenizer.encode_rendered(text) for text in rendered]
    assert got["decoded"] == [tokenizer.decode(some) for some in ids]


def test_smollm2_and_the_splitting_patterns_of_other_families(tmp_path: Path, smollm2_gguf: Path) -> None:
    assets = gguf.load(smollm2_gguf).tokenizer
    assert assets is not None
    compare(tmp_path / "smollm2", assets)
    for name in ("default", "llama-bpe", "qwen2"):
        patterns = gguf_tokenizer._PATTERNS[name]
        state = json.loads(assets.tokenizer_json)
        splits = [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
            for pattern in patterns
        ]
        bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*splits, bytes_only]}
        content = json.dumps(state, ensure_ascii=False).encode()
        compare(tmp_path / name, dataclasses.replace(assets, tokenizer_json=content))


def test_minilm(tmp_path: Path, minilm_folder: Path) -> None:
    content = (minilm_folder / "tokenizer.json").read_bytes()
    compare(tmp_path / "minilm", TokenizerAssets(content, (), chat_template=CHAT_TEMPLATE))


def test_pruned_vocabularies(tmp_path: Path, smollm2_gguf: Path, minilm_folder: Path) -> None:
    whole = gguf.load(smollm2_gguf).tokenizer
    assert whole is not None
    word_piece = TokenizerAssets((minilm_folder / "tokenizer.json").read_bytes(), (), chat_template=CHAT_TEMPLATE)
    for name, assets in (("smollm2", whole), ("minilm", word_piece)):
        compare(tmp_path / name, prune_tokenizer(assets, most_useful_ids(assets, 5000, "\n".join(fixtures.TEXTS))))


@pytest.mark.parametrize("name", ["byte-level", "metaspace", "word-piece"])
def test_small_tokenizers(tmp_path: Path, name: str) -> None:
    made = json.loads((fixtures.FOLDER / "tokenizers.json").read_text(encoding="utf-8"))
    content = json.dumps(made[name]["tokenizer"], ensure_ascii=False).encode()
    compare(tmp_path / name, TokenizerAssets(content, (), chat_template=CHAT_TEMPLATE))
