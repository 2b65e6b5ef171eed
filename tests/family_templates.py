"""Chat templates that do what the published ones of the families do, and chats to render.

They are written here (`templates/`), by what those do: how roles are framed, which roles they refuse, what becomes of
a system message, which parts of the template language they need. `smollm2` has a default system message, `qwen2`
leaves the reasoning of earlier turns out, `llama2` and `mistral` put the system message into a user's turn, `gemma`
refuses it, `llama3` asks for the date, `phi3`'s control tokens take the line break after them, `opt` is as of Zephyr
and StableLM, `gpt2` has macros, the block of `transformers`, and loops that are left.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# By the tokenizer of `tests.family_tokenizers` that has the special tokens.
FAMILY_TEMPLATES: Mapping[str, str] = {
    path.stem: path.read_bytes().decode("utf-8")
    for path in sorted((Path(__file__).parent / "templates").glob("*.jinja"))
}

SPECIAL_TOKENS: Mapping[str, Mapping[str, str]] = {
    "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    "smollm2": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
    "qwen2": {"eos_token": "<|im_end|>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "gemma": {"bos_token": "<bos>", "eos_token": "<eos>"},
    "phi4": {"eos_token": "<|im_end|>"},
    "cohere": {"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>"},
    **{name: {"bos_token": "<s>", "eos_token": "</s>"} for name in ("llama2", "mistral", "phi3", "opt")},
}


def _chat(*turns: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


CHATS: list[list[dict[str, Any]]] = [
    _chat(("user", "hello")),
    _chat(("system", "be brief"), ("user", "hi there!")),
    _chat(("user", "  spaces around  "), ("assistant", "\nline breaks around\n\n"), ("user", "x\r\ny")),
    _chat(("system", "  S  "), ("user", "1+1?"), ("assistant", "2"), ("user", "日本語 👩‍👩‍👧 مَرْحَبًا e\u0301")),
    _chat(("user", ""), ("assistant", ""), ("user", " ")),
    _chat(("user", "{{ 7 * 7 }} {% raise %} \\n \" ' <b>&amp;")),
    _chat(("user", "q"), ("assistant", "<think>\nlong\n</think>\n\nshort"), ("user", "more")),
    # Roles that some templates refuse, by their own words
    _chat(("user", "a"), ("user", "b")),
    _chat(("assistant", "a"), ("user", "b")),
    _chat(("system", "only a system message")),
    _chat(("user", "a"), ("system", "late")),
    _chat(("user", "weather?"), ("tool", "12 degrees"), ("tool", "rain"), ("user", "thanks")),
    _chat(("narrator", "it was a dark night")),
    [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"é": [1, None, True]}}]},
    ],
]
