from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import wasmtime

from edgec import bundle
from edgec.errors import BundleError, RunError, UsageError
from edgec.run import engine as engine_module
from edgec.run.engine import Engine, choose_variant
from edgec.run.probe import RelaxedDots
from tests.run import fake_module
from tests.run.fake_module import VOCABULARY, make_weights, reference_logits

VARIANTS = [
    ("simd128", 1),
    ("relaxed", 1),
    ("relaxed16", 1),
    ("simd128-threads", 1),
    ("relaxed-threads", 2),
    ("relaxed16-threads", 4),
]
IDS = [5, 99, 255, 1, 2, 97, 98]


def logits(engine: Engine) -> npt.NDArray[np.float32]:
    return engine.view(engine.manifest.output("logits"), VOCABULARY).copy()


def prefill(engine: Engine, ids: list[int], position: int) -> None:
    engine.ensure_kv(position + len(ids))
    engine.view(engine.manifest.input("tokens"), len(ids))[:] = ids
    engine.call("prefill", len(ids), position)


@pytest.mark.parametrize(("variant", "threads"), VARIANTS)
def test_every_variant_computes_the_same(decoder_bundle: bundle.Bundle, variant: str, threads: int) -> None:
    weights = make_weights()
    with Engine(decoder_bundle, variant=variant, threads=threads) as engine:
        assert (engine.variant, engine.threads) == (variant, threads)
        prefill(engine, IDS[:-1], 0)
        engine.call("head", 2)
        assert np.array_equal(logits(engine), reference_logits(IDS[:3], weights))
        prefill(engine, IDS[-1:], len(IDS) - 1)
        engine.call("decode", len(IDS) - 1)
        assert np.array_equal(logits(engine), reference_logits(IDS, weights))


def test_weights_arrive_in_small_pieces_too(decoder_bundle: bundle.Bundle) -> None:
    memory = decoder_bundle.manifest.memory
    staging = dataclasses.replace(memory.workspace, bytes=64)
    manifest = dataclasses.replace(decoder_bundle.manifest, memory=dataclasses.replace(memory, workspace=staging))
    weights = make_weights()
    with Engine(dataclasses.replace(decoder_bundle, manifest=manifest), threads=1) as engine:
        held = engine.memory[fake_module.HIGH : fake_module.HIGH + fake_module.CODES]
        assert np.array_equal(held, weights["high"])
        held = engine.memory[fake_module.LOW : fake_module.LOW + fake_module.CODES]
        assert np.array_equal(held, weights["low"])


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_grows_with_the_conversation(decoder_bundle: bundle.Bundle, threads: int) -> None:
    with Engine(decoder_bundle, threads=threads) as engine:
        start = engine.memory_bytes
        engine.memory[fake_module.HIGH] = 77
        engine.ensure_kv(1)
        engine.ensure_kv(fake_module.CONTEXT)
        assert engine.memory_bytes == fake_module.MAXIMUM > start
        assert engine.memory[fake_module.HIGH] == 77
        with pytest.raises(RunError, match="cannot grow"):
            engine.ensure_bytes(fake_module.MAXIMUM + 1)


def test_page_table_starts_as_identity(decoder_bundle: bundle.Bundle) -> None:
    with Engine(decoder_bundle, threads=1) as engine:
        at = fake_module.CONTROL + 1024
        assert engine.memory[at : at + 4 * fake_module.PAGES].view(np.int32).tolist() == list(range(fake_module.PAGES))


def test_progress_counts_every_weight_byte(decoder_bundle: bundle.Bundle) -> None:
    seen: list[int] = []
    Engine(decoder_bundle, threads=1, progress=seen.append).close()
    files = decoder_bundle.manifest.files
    assert sum(seen) == sum(info.bytes for name, info in files.items() if name.startswith("weights/"))


def test_choice_of_variant(decoder_bundle: bundle.Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def engine_has(int32: bool, int16: bool, int32_is_slow: bool) -> None:
        monkeypatch.setattr(engine_module, "relaxed_dots", lambda: RelaxedDots(int32, int16, int32_is_slow))

    engine_has(True, True, False)
    assert choose_variant(decoder_bundle, None, 2) == ("relaxed-threads", 2)
    assert choose_variant(decoder_bundle, None, 1) == ("relaxed", 1)
    assert choose_variant(decoder_bundle, None, 99) == ("relaxed-threads", fake_module.MAX_THREADS)
    assert choose_variant(decoder_bundle, "simd128", 4) == ("simd128", 1)
    single = fake_module.write_fake_bundle(tmp_path / "single.edgec", threads=False)
    assert choose_variant(single, None, 4) == ("relaxed", 1)
    with pytest.raises(UsageError, match="no variant `relaxed-threads`"):
        choose_variant(single, "relaxed-threads", None)
    with pytest.raises(UsageError, match="0 threads"):
        choose_variant(single, None, 0)
    engine_has(True, True, True)
    assert choose_variant(decoder_bundle, None, 2) == ("relaxed16-threads", 2)
    assert choose_variant(single, None, 4) == ("relaxed16", 1)
    assert choose_variant(decoder_bundle, "relaxed", 1) == ("relaxed", 1)
    engine_has(False, True, False)
    assert choose_variant(decoder_bundle, None, 1) == ("relaxed16", 1)
    engine_has(False, False, False)
    assert choose_variant(decoder_bundle, None, 2) == ("simd128-threads", 2)
    for variant in ("relaxed", "relaxed16"):
        with pytest.raises(RunError, match="no right relaxed dot product"):
            choose_variant(decoder_bundle, variant, 1)


def broken(
    tmp_path: Path, old: str, new: str, monkeypatch: pytest.MonkeyPatch, *, threads: bool = False
) -> bundle.Bundle:
    """A bundle whose module's text has `old` replaced by `new`."""
    original = wasmtime.wat2wasm
    monkeypatch.setattr(wasmtime, "wat2wasm", lambda text: original(text.replace(old, new)))
    return fake_module.write_fake_bundle(tmp_path / "broken.edgec", threads=threads, golden=False)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('(export "decode")', '(export "decoda")', "does not export `decode`"),
        ('(export "merge_bit1")', "", "does not export `merge_bit1`"),
        ('(export "__stack_pointer")', "", "does not export the global `__stack_pointer`"),
        ('(import "env" "memory"', '(import "env" "memory2"', "imports"),
        ('(import "env" "memory"', '(import "env" "f" (func)) (import "env" "memory"', "imports"),
        (f"{fake_module.MAXIMUM // 65536})", "19)", "cannot be loaded"),
    ],
)
def test_modules_that_break_the_abi_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, message: str
) -> None:
    damaged = broken(tmp_path, old, new, monkeypatch)
    with pytest.raises(BundleError, match=message):
        Engine(damaged)


@pytest.mark.parametrize(("thread", "threads"), [(0, 1), (0, 3), (1, 3), (2, 3)])
def test_a_trap_on_any_thread_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thread: int, threads: int
) -> None:
    trap = f"(if (i32.eq (local.get $tid) (i32.const {thread})) (then unreachable)) (call $logits"
    damaged = broken(tmp_path, "(call $logits", trap, monkeypatch, threads=threads > 1)
    with Engine(damaged, threads=threads) as engine:
        assert engine.threads == threads
        with pytest.raises(RunError, match="`decode` failed"):
            engine.call("decode", 0)
        assert engine.closed


def test_a_result_other_than_zero_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = broken(tmp_path, " (i32.const 0))\n", " (i32.const 3))\n", monkeypatch)
    with Engine(damaged) as engine, pytest.raises(RunError, match=r"`head` failed \(code 3\)"):
        engine.call("head", 0)


def test_a_damaged_weight_file_is_noticed_while_loading(tmp_path: Path) -> None:
    written = fake_module.write_fake_bundle(tmp_path / "fake.edgec")
    file = written.path / written.manifest.weights[0].file
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(BundleError) as caught:
        Engine(bundle.read(written.path))
    assert caught.value.finding == "hash-mismatch"


def test_a_closed_engine_says_so(decoder_bundle: bundle.Bundle) -> None:
    engine = Engine(decoder_bundle, threads=2)
    engine.close()
    engine.close()
    with pytest.raises(RunError, match="closed"):
        engine.call("head", 0)
    with pytest.raises(RunError, match="closed"):
        _ = engine.memory
