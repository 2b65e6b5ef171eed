from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

import edgec
from edgec import bundle
from edgec.errors import ContextFullError, RunError, UnsupportedError, UsageError
from edgec.run import Model, load
from tests.run.fake_module import CONTEXT, VOCABULARY, make_weights, reference_logits, write_fake_bundle


def greedy_reference(prompt: list[int], count: int) -> tuple[list[int], str]:
    """ids and logits hash of a greedy answer, computed without wasm."""
    ids, digest = list(prompt), hashlib.sha256()
    for _ in range(count):
        logits = reference_logits(ids, make_weights())
        digest.update(hashlib.sha256(logits.tobytes()).digest())
        ids.append(int(np.argmax(logits)))
    return ids[len(prompt) :], digest.hexdigest()


def test_greedy_answer_is_the_reference_in_every_variant(decoder_bundle: bundle.Bundle) -> None:
    prompt = list(b"Once upon a time")
    expected = greedy_reference(prompt, 30)
    for variant, threads in (("simd128", 1), ("relaxed16", 1), ("simd128-threads", 3), ("relaxed-threads", 2)):
        with load(decoder_bundle, variant=variant, threads=threads) as model:
            answer = model.generate(prompt, temperature=0, max_tokens=30, hash_logits=True)
            text = answer.text()
            assert (answer.ids, answer.logits_sha256) == expected
            assert answer.finish_reason == "length"
            assert text == bytes(answer.ids).decode()


def test_pieces_stream_and_stats_count(model: Model) -> None:
    answer = model.generate("hello", max_tokens=12, seed=5)
    pieces = list(answer)
    assert answer.text() == str(answer) == "".join(pieces)
    stats = answer.stats()
    assert (stats.prompt_tokens, stats.reused_tokens, stats.new_tokens) == (5, 0, 12)
    assert stats.prefill_tokens_per_second > 0 and stats.decode_tokens_per_second > 0
    assert model.stats()["cached_tokens"] == 5 + 11


def test_the_same_seed_gives_the_same_ids_and_another_does_not(model: Model) -> None:
    answers = []
    for seed in (1, 1, 2):
        answer = model.generate("hello", max_tokens=20, seed=seed, temperature=100.0)
        answer.text()
        answers.append(answer.ids)
    assert answers[0] == answers[1] != answers[2]


def test_a_common_beginning_is_computed_once(model: Model) -> None:
    first = model.generate("hello there", max_tokens=4, temperature=0)
    longer = "hello there" + first.text()
    again = model.generate(longer + "!", max_tokens=4, temperature=0, hash_logits=True)
    again.text()
    assert again.stats().reused_tokens >= len("hello ")
    model.reset()
    fresh = model.generate(longer + "!", max_tokens=4, temperature=0, hash_logits=True)
    fresh.text()
    assert fresh.stats().reused_tokens == 0
    assert (fresh.ids, fresh.logits_sha256) == (again.ids, again.logits_sha256)
    same = model.generate(longer + "!", max_tokens=1, temperature=0)
    same.text()
    assert same.stats().reused_tokens == len(same.prompt_ids) - 1
    other = model.generate("different", max_tokens=1, temperature=0)
    other.text()
    assert other.stats().reused_tokens == 0 and other.ids == greedy_reference(other.prompt_ids, 1)[0]


def test_chat_uses_the_template(model: Model) -> None:
    ids = model.chat_ids([{"role": "user", "content": "hi"}])
    assert ids == [258, *b"user\nhi", 259, *b"\n", 258, *b"assistant\n"]
    answer = model.chat([{"role": "user", "content": "hi"}], max_tokens=3)
    assert len(answer.text()) == 3 and answer.prompt_ids == ids


def test_stop_strings_end_the_answer_and_are_not_shown(model: Model) -> None:
    whole = model.generate("stop here", max_tokens=20, temperature=0).text()
    stop = whole[5:8]
    answer = model.generate("stop here", max_tokens=20, temperature=0, stop=stop)
    assert answer.text() == whole[: whole.index(stop)] and answer.finish_reason == "stop"


def test_an_end_of_sequence_id_stops(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = greedy_reference(list(b"go"), 6)[0]
    answer = model.generate(list(b"go"), max_tokens=20, temperature=0)
    monkeypatch.setattr(answer, "_eos", frozenset([ids[5]]))
    answer.text()
    assert answer.finish_reason == "stop" and answer.ids == ids[: ids.index(ids[5])]


def test_a_full_context_stops_and_a_longer_prompt_is_refused(model: Model) -> None:
    answer = model.generate([1] * (CONTEXT - 3), max_tokens=99, temperature=0)
    answer.text()
    assert answer.finish_reason == "length" and len(answer.ids) == 4
    answer = model.generate([1] * CONTEXT, max_tokens=99, temperature=0)
    answer.text()
    assert len(answer.ids) == 1
    with pytest.raises(ContextFullError, match=f"do not fit the context of {CONTEXT}"):
        model.generate([1] * (CONTEXT + 1)).text()


def test_bad_prompts(model: Model) -> None:
    with pytest.raises(RunError, match="empty"):
        model.generate([]).text()
    with pytest.raises(RunError, match="outside the vocabulary"):
        model.generate([VOCABULARY]).text()
    with pytest.raises(RunError, match="outside the vocabulary"):
        model.generate([-1]).text()
    with pytest.raises(UsageError, match="no option `tempreture`"):
        model.generate("x", tempreture=1)


def test_one_answer_at_a_time(model: Model) -> None:
    first = model.generate("one", max_tokens=20)
    next(first)
    second = model.generate("two", max_tokens=3, temperature=0)
    with pytest.raises(RunError, match="taken over"):
        first.text()
    assert second.text() == bytes(greedy_reference(list(b"two"), 3)[0]).decode()


def test_an_answer_can_be_ended_early(model: Model) -> None:
    answer = model.generate("one", max_tokens=20)
    next(answer)
    answer.close()
    assert list(answer) == [] and answer.finish_reason == "closed"


def test_logits_of_every_position(model: Model) -> None:
    ids = list(range(20))
    rows = list(model.logits(ids))
    assert len(rows) == 20
    for position, row in enumerate(rows):
        assert np.array_equal(row, reference_logits(ids[: position + 1], make_weights()))


def test_a_language_model_is_not_a_graph(model: Model, graph: Model) -> None:
    with pytest.raises(UnsupportedError, match="is a language model"):
        model.run({})
    with pytest.raises(UnsupportedError, match="is not a language model"):
        graph.generate([1])
    with pytest.raises(UnsupportedError, match="no tokenizer"):
        graph.generate("text")
    with pytest.raises(UnsupportedError, match="no chat template"):
        graph.chat([{"role": "user", "content": "hi"}])


def test_a_closed_model_says_so(decoder_bundle: bundle.Bundle) -> None:
    model = edgec.load(decoder_bundle.path)
    model.close()
    with pytest.raises(RunError, match="closed"):
        model.generate("x")


# graphs


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_a_graph_runs_at_every_batch_size(graph: Model, batch: int) -> None:
    x = np.random.default_rng(batch).normal(size=(batch, 4)).astype(np.float32)
    out = graph.run({"x": x})
    assert np.array_equal(out["y"], 2 * x + make_weights()["scale"][:4])
    assert out["z"].tolist() == list(range(batch)) and out["z"].dtype == np.int32


def test_lists_and_doubles_are_converted(graph: Model) -> None:
    assert graph.run({"x": [[1, 2, 3, 4.0]]})["y"].dtype == np.float32


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "the inputs are none"),
        ({"x": np.zeros((1, 4)), "w": 1}, "the inputs are `x`, `w`"),
        ({"x": np.zeros((1, 5), np.float32)}, r"has the shape \[1, 5\]"),
        ({"x": np.zeros(4, np.float32)}, "has 1 dimensions"),
        ({"x": np.zeros((17, 4), np.float32)}, "dimension `batch` is 17"),
        ({"x": np.zeros((0, 4), np.float32)}, "dimension `batch` is 0"),
        ({"x": np.zeros((1, 4), np.complex64)}, "is complex64"),
        ({"x": np.array([["a"] * 4])}, "is <U1"),
    ],
)
def test_wrong_inputs_are_named(graph: Model, inputs: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        graph.run(inputs)  # type: ignore[arg-type]


def test_several_graphs(tmp_path: Path) -> None:
    written = write_fake_bundle(tmp_path / "graphs.edgec", kind="graphs")
    for threads in (1, 2):
        with load(written, threads=threads) as model:
            x = np.arange(8, dtype=np.float32).reshape(2, 4)
            first = model.run({"x": x}, graph="run")
            assert first.keys() == {"y", "z"}
            assert model.run({"word": [1, 20, 300]}, graph="total")["sum"].tolist() == [321]
            np.testing.assert_array_equal(model.run({"x": x}, graph="run")["y"], first["y"])
            assert [slot.name for slot in model.graph("total").inputs] == ["word"] and model.graph("total").dims == {}
            with pytest.raises(UsageError, match="has several graphs") as caught:
                model.run({"x": x})
            assert "`run`, `total`" in (caught.value.hint or "")
            with pytest.raises(UsageError, match="there is no graph `sum`"):
                model.run({"x": x}, graph="sum")
            with pytest.raises(UsageError, match="the inputs are `x`"):
                model.run({"x": x}, graph="total")
