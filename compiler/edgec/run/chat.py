"""Chat templates: the model's own Jinja source, in a sandbox, with what Hugging Face templates expect.

Text inside messages never becomes a control token: `GUARD` is put into every occurrence of a special
token before rendering, and after a beginning of one at a text's end; the rendered text is cut at the
special tokens that are left, which are the template's own, and the parts between them are encoded as
plain text (docs/runtime-abi.md, "Text").
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from edgec.errors import RunError, UsageError

Message = Mapping[str, Any]  # at least "role" and "content"
GUARD = "\ufdd0"  # a noncharacter: never in real text


def render_chat(
    template: str,
    messages: Sequence[Message],
    *,
    special_tokens: Mapping[str, str],
    control_tokens: Collection[str] = (),
    add_generation_prompt: bool = True,
    now: Callable[[], datetime.datetime] = datetime.datetime.now,
    **variables: Any,
) -> str:
    """The prompt's text, with `GUARD` inside every one of `control_tokens` that comes from a message.

    `special_tokens` are the template's variables (`bos_token`). Raises `UsageError` for messages
    that the template refuses.
    """
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise UsageError("a chat message has no `role`", hint='a message is {"role": "user", "content": "..."}')
    if not messages:
        raise UsageError("the chat has no messages")
    guard = _Guard(control_tokens)
    values = {
        **special_tokens,
        "messages": [guard.message(message) for message in messages],
        "add_generation_prompt": add_generation_prompt,
        "tools": None,
        "documents": None,
        "strftime_now": lambda format: now().strftime(format),
        **variables,
    }
    try:
        return _compiled(template).render(values)
    except _Refused as refusal:
        raise UsageError(f"the chat template refuses these messages ({refusal})") from None
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, OverflowError) as error:
        raise RunError(f"the chat template failed ({error})") from error


def special_pattern(control_tokens: Collection[str]) -> re.Pattern[str]:
    """Matches any of the tokens, the longest at each place; nothing if there are none."""
    longest_first = sorted((token for token in control_tokens if token), key=len, reverse=True)
    return re.compile("|".join(re.escape(token) for token in longest_first) or r"(?!)")


class _Guard:
    """Puts `GUARD` into control tokens, and after what may become one when a template appends another text to it."""

    def __init__(self, control_tokens: Collection[str]) -> None:
        self._pattern = special_pattern(control_tokens)
        self._beginnings = {token[:length] for token in control_tokens for length in range(1, len(token))}
        self._longest = max(map(len, self._beginnings), default=0)

    def message(self, message: Message) -> dict[str, Any]:
        return {name: value if name == "role" else self.value(value) for name, value in message.items()}

    def value(self, value: Any) -> Any:
        if isinstance(value, str):
            text = self._pattern.sub(lambda match: match[0][0] + GUARD + match[0][1:], value.replace(GUARD, ""))
            begun = any(text[-length:] in self._beginnings for length in range(1, min(self._longest, len(text)) + 1))
            return text + GUARD if begun else text
        if isinstance(value, Mapping):
            return {name: self.value(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, by which `transformers` finds what an assistant said; it changes nothing of the text."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class _Refused(Exception):
    """What a template raises with `raise_exception`."""


def _refuse(message: str) -> str:
    raise _Refused(message)


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _to_json  # Jinja's own escapes HTML
    environment.globals["raise_exception"] = _refuse
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        raise RunError(f"the chat template is not valid ({error})") from error


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
