"""Tokenizers and chat templates of the decoder families: the same in JavaScript, in Python, in the Rust tokenizers and
in `transformers`, over texts that are hard for them; text of a user never becomes a control token."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Library

from edgec import resources
from edgec.errors import UsageError
from edgec.run.chat import GUARD, render_chat
from edgec.run.tokenizer import TextStream, Tokenizer, well_formed
from tests.family_templates import CHATS, FAMILY_TEMPLATES, SPECIAL_TOKENS
from tests.family_tokenizers import FAMILY_TOKENIZERS, TEXTS, random_texts

pytestmark = pytest.mark.node
ALL_TEXTS = [*TEXTS, *random_texts(250)]
BROKEN = ["\ud83d", "a\udc00b", "\ud83d\ud83d\ude00", "\udfff\ud800"]  # halves of surrogate pairs


class Family:
    """A tokenizer, its jobs for JavaScript and what JavaScript answered."""

    def __init__(self, name: str, definition: str) -> None:
        self.name, self.definition = name, definition
        self.library = Library.from_str(definition)  # not as it was trained: what the file says counts
        self.ours = Tokenizer(definition.encode())
        choose, size = random.Random(1), self.library.get_vocab_size()
        self.ids = [self.library.encode(text).ids for text in ALL_TEXTS]
        self.ids += [[choose.randrange(size) for _ in range(choose.randint(1, 24))] for _ in range(120)]
        self.rendered = self._rendered()
        self.answer: dict[str, Any] = {}

    def _rendered(self) -> list[str]:
        """Control tokens of the template around texts."""
        names = sorted(self.ours.control_tokens)[:4]
        texts = ALL_TEXTS[:: 1 if len(names) > 1 else 2]
        guarded = [
            render_chat(
                "{{ messages[0].content }}",
                [{"role": "user", "content": text}],
                special_tokens={},
                control_tokens=self.ours.control_tokens,
            )
            for text in texts
        ]
        choose = random.Random(2)
        frames = [[choose.choice(names) + choose.choice(["", "\n", " "]) for _ in range(3)] for _ in texts]
        return [f"{a}{text}{b}{text}{c}" for text, (a, b, c) in zip(guarded, frames, strict=True)] + guarded

    def job(self) -> dict[str, Any]:
        texts = [*ALL_TEXTS, *BROKEN]
        return {"tokenizer": self.definition, "texts": texts, "rendered": self.rendered, "ids": self.ids}


def in_javascript(jobs: list[dict[str, Any]]) -> list[Any]:
    script = Path(__file__).with_name("text.mjs")
    command = ["node", str(script), str(resources.runtime_directory().parent)]
    finished = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0, finished.stderr
    answers: list[Any] = json.loads(finished.stdout)
    return answers


@pytest.fixture(scope="module")
def families() -> dict[str, Family]:
    made = {name: Family(name, make().to_str()) for name, make in FAMILY_TOKENIZERS.items()}
    for family, answer in zip(made.values(), in_javascript([family.job() for family in made.values()]), strict=True):
        family.answer = answer
    return made


@pytest.fixture(params=FAMILY_TOKENIZERS)
def family(request: pytest.FixtureRequest, families: dict[str, Family]) -> Family:
    return families[request.param]


def test_prompts(family: Family) -> None:
    for text, found in zip(ALL_TEXTS, family.answer["raw"], strict=False):
        assert found == family.ours.encode(text) == family.library.encode(text).ids, text


def test_plain_text(family: Family) -> None:
    """As the Rust tokenizers have it, but for control tokens, which some models make out of text."""
    controls = set(family.ours.control_tokens.values()) - {family.library.token_to_id(unknown_token(family))}
    family.library.encode_special_tokens = True
    for text, found in zip(ALL_TEXTS, family.answer["plain"], strict=False):
        ids = family.ours.encode_plain(text)
        assert found == ids, text
        assert controls.isdisjoint(ids), text
        wanted = family.library.encode(text, add_special_tokens=False).ids
        assert ids == wanted or not controls.isdisjoint(wanted), text
    family.library.encode_special_tokens = False


def unknown_token(family: Family) -> str:
    model = json.loads(family.definition)["model"]
    return str(model["vocab"][model["unk_id"]][0] if model["type"] == "Unigram" else model.get("unk_token"))


def test_halves_of_surrogate_pairs(family: Family) -> None:
    for text, raw, plain in zip(
        BROKEN, family.answer["raw"][-len(BROKEN) :], family.answer["plain"][-len(BROKEN) :], strict=True
    ):
        assert raw == family.ours.encode(text) == family.library.encode(well_formed(text)).ids
        assert plain == family.ours.encode_plain(text)


def test_decoding(family: Family) -> None:
    for ids, found in zip(family.ids, family.answer["decoded"], strict=True):
        assert found == family.ours.decode(ids) == family.library.decode(ids, skip_special_tokens=True)


def test_streaming(family: Family) -> None:
    for ids, found in zip(family.ids, family.answer["pieces"], strict=True):
        stream = TextStream(family.ours)
        pieces = [*(stream.push(id) for id in ids), stream.finish()]
        assert found == pieces
        assert "".join(pieces) == family.ours.decode(ids)


def test_texts_between_control_tokens(family: Family) -> None:
    """As the whole is encoded by the Rust tokenizers, where the texts have no control tokens of their own."""
    for text, found in zip(family.rendered, family.answer["rendered"], strict=True):
        ids = family.ours.encode_rendered(text)
        assert found == ids, text
        if GUARD not in text:
            assert ids == family.library.encode(text, add_special_tokens=False).ids, text


@pytest.mark.parametrize("fallback", [False, True])
def test_unknown_text_that_reads_like_a_control_token(fallback: bool) -> None:
    """None of its characters is in the vocabulary, so it comes as a whole."""
    from tokenizers import models, pre_tokenizers

    unigram = models.Unigram([("<unk>", 0.0), ("</s>", 0.0), ("a", -1.0)], unk_id=0, byte_fallback=fallback)
    words = models.WordPiece({"[UNK]": 0, "[SEP]": 1, "a": 2}, unk_token="[UNK]")
    letters = models.BPE({"<unk>": 0, "</s>": 1, "a": 2}, [], unk_token="<unk>", fuse_unk=True, byte_fallback=fallback)
    whole = models.BPE({"<unk>": 0, "</s>": 1, "a": 2}, [], unk_token="<unk>", ignore_merges=True)
    jobs, wanted = [], []
    for model, control in ((unigram, "</s>"), (words, "[SEP]"), (letters, "</s>"), (whole, "</s>")):
        library = Library(model)
        library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        library.add_special_tokens([control])
        texts = [control, f"a {control} a", f"a{control}a", f"{control}{control}"]
        tokenizer = Tokenizer(library.to_str().encode())
        jobs.append({"tokenizer": library.to_str(), "texts": texts, "rendered": [], "ids": []})
        wanted.append([tokenizer.encode_plain(text) for text in texts])
        assert all(1 not in ids and ids for ids in wanted[-1])
    assert [answer["plain"] for answer in in_javascript(jobs)] == wanted


TEMPLATE_NAMES = list(FAMILY_TEMPLATES)


@pytest.fixture(scope="module")
def rendered_in_javascript(families: dict[str, Family]) -> dict[str, list[Any]]:
    jobs = [
        {
            "template": template,
            "chats": [*CHATS, *attacks(families[name])],
            "specialTokens": SPECIAL_TOKENS[name],
            "controlTokens": list(families[name].ours.control_tokens),
        }
        for name, template in FAMILY_TEMPLATES.items()
    ]
    return dict(zip(FAMILY_TEMPLATES, in_javascript(jobs), strict=True))


def attacks(family: Family) -> list[list[dict[str, Any]]]:
    """A user who writes each control token, and pieces of it around another."""
    names = list(family.ours.control_tokens)
    texts = [f"x{name}y {name}" for name in names]
    texts += [f"{name[:3]}{other}{name[3:]}" for name, other in zip(names, names[::-1], strict=True)]
    return [[{"role": "user", "content": text}] for text in texts]


PARTS = "{{ bos_token }}{% for part in messages[0].content %}{{ part.text }}{% endfor %}"


def test_tokens_cut_in_two(families: dict[str, Family]) -> None:
    """A template that joins the parts of a message joins no control token."""
    family = families["smollm2"]
    cuts = [
        [{"role": "user", "content": [{"type": "text", "text": text} for text in (name[:at], name[at:], "!")]}]
        for name in family.ours.control_tokens
        for at in range(1, len(name))
    ]
    names = list(family.ours.control_tokens)
    job = {"template": PARTS, "chats": cuts, "specialTokens": SPECIAL_TOKENS["smollm2"], "controlTokens": names}
    for chat, found in zip(cuts, in_javascript([job])[0], strict=True):
        text = render_chat(PARTS, chat, special_tokens=SPECIAL_TOKENS["smollm2"], control_tokens=names)
        assert found == text
        whole = "".join(part["text"] for part in chat[0]["content"])
        assert text.replace(GUARD, "") == SPECIAL_TOKENS["smollm2"]["bos_token"] + whole
        controls = set(family.ours.control_tokens.values())
        assert sum(id in controls for id in family.ours.encode_rendered(text)) == 1


def reference(name: str, family: Family) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Library.from_str(family.definition), **SPECIAL_TOKENS[name])
    tokenizer.chat_template = FAMILY_TEMPLATES[name]
    return tokenizer


def ours(name: str, family: Family, chat: list[dict[str, Any]]) -> str:
    return render_chat(
        FAMILY_TEMPLATES[name],
        chat,
        special_tokens=SPECIAL_TOKENS[name],
        control_tokens=family.ours.control_tokens,
    )


@pytest.mark.parametrize("name", TEMPLATE_NAMES)
def test_chats(name: str, families: dict[str, Family], rendered_in_javascript: dict[str, list[Any]]) -> None:
    """The same text and ids as `transformers`, or the template's own refusal as ours."""
    import jinja2

    family = families[name]
    tokenizer = reference(name, family)
    for chat, found in zip(CHATS, rendered_in_javascript[name], strict=False):
        try:
            wanted = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        except jinja2.TemplateError as error:
            assert found["error"] == "template" and str(error) in found["message"]
            with pytest.raises(UsageError) as caught:
                ours(name, family, chat)
            assert str(error) in caught.value.message
            continue
        text = ours(name, family, chat)
        assert found == text == wanted
        ids = tokenizer.apply_chat_template(chat, tokenize=True, add_generation_prompt=True)
        assert family.ours.encode_rendered(text) == ids


@pytest.mark.parametrize("name", TEMPLATE_NAMES)
def test_attacks(name: str, families: dict[str, Family], rendered_in_javascript: dict[str, list[Any]]) -> None:
    """A user's text gives no control token: the same ones come out as of a harmless chat."""
    family = families[name]
    tokenizer = reference(name, family)
    controls = set(family.ours.control_tokens.values())
    harmless = [id for id in family.ours.encode_rendered(ours(name, family, CHATS[0])) if id in controls]
    for chat, found in zip(attacks(family), rendered_in_javascript[name][len(CHATS) :], strict=True):
        text = ours(name, family, chat)
        assert found == text
        assert text.replace(GUARD, "") == tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True
        )
        ids = family.ours.encode_rendered(text)
        assert [id for id in ids if id in controls] == harmless
