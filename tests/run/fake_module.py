"""A complete bundle around a hand-written wasm module with trivial arithmetic.

It obeys docs/runtime-abi.md in everything, so it tests loaders, samplers and sessions before and
without a compiler. `python -m tests.run.fake_module DIR` writes `DIR/decoder.edgec`, `DIR/graph.edgec`,
`DIR/graphs.edgec`, `DIR/speech.edgec`,
`DIR/detector.edgec`.

The decoder's state after the ids t[0..p] is h = fold(h * 31 + t + 7), its logits are
scale[v] * ((h * (2v + 1) + 3 * high[v] + low[v]) & 1023), with the ids kept in a paged KV cache.
The graph computes y[b, j] = 2 * x[b, j] + bias[j] and z[b] = b (int32). The model of two graphs has that one as `run`
and `total`, which computes sum = word[0] + word[1] + word[2] (int32). The speech model's encoder adds up its
samples in thousandths, h; its logits are 1 for the letter number (h + 5 * past + token) mod 26, and 2 for the end from
`past` 12 on. The speech detector's chance is the last sample plus half of the first one of the call before.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir
import wasmtime

from edgec import bundle
from edgec.ir import (
    DecoderFacts,
    EntryPoint,
    KVLayout,
    KVPlan,
    LoweredModule,
    MemoryPlan,
    ModelFacts,
    ModelIR,
    Plan,
    Prediction,
    Region,
    TensorSlot,
    TokenizerAssets,
    WeightPlacement,
)
from edgec.ir.plan import VARIANTS
from edgec.run import make_golden

VOCABULARY = 264
CONTEXT = 128
CHUNK = 8
PAGE_TOKENS = 16
PAGE_BYTES = 32768  # much more than it needs, so that the memory has to grow
PAGES = CONTEXT // PAGE_TOKENS
MAX_THREADS = 4
STACK = 16384
CODES = 384  # VOCABULARY rounded up to a multiple of 128

CONTROL = 1024
STACKS = 4096
WORKSPACE = STACKS + MAX_THREADS * STACK
WORKSPACE_BYTES = 1 << 20
TOKENS = WORKSPACE
HIDDEN = TOKENS + 64
LOGITS = HIDDEN + 64
X = WORKSPACE
Y = X + 256
Z = Y + 256
WORD = Z + 64
SUM = WORD + 64
SAMPLE_RATE = 8000
AUDIO = WORKSPACE
TOKEN = AUDIO + 4 * SAMPLE_RATE
STATES = TOKEN + 64
SPOKEN = STATES + 64
HEARD = 96
SOUND = WORKSPACE
REMEMBERED = SOUND + 4 * HEARD
CHANCE = REMEMBERED + 64
AFTER = CHANCE + 64
WEIGHTS = WORKSPACE + WORKSPACE_BYTES
SCALE = WEIGHTS
HIGH = SCALE + 1088
LOW = HIGH + CODES
WEIGHTS_END = LOW + CODES
KV = (WEIGHTS_END + 63) // 64 * 64
MAXIMUM = (KV + PAGES * PAGE_BYTES + 65535) // 65536 * 65536

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_MERGE = """
  (func (export "merge_bits2") (param $to i32) (param $from i32) (param $n i32) (local $i i32) (local $half i32)
      (local $p i32) (local $b i32)
    (loop $next
      (local.set $half (i32.const 0))
      (loop $halves
        (local.set $b (i32.shr_u (i32.load8_u (i32.add (local.get $from) (local.get $i))) (i32.shl
            (local.get $half) (i32.const 2))))
        (local.set $p (i32.add (i32.add (local.get $to) (i32.shl (i32.and (local.get $i) (i32.const -16))
            (i32.const 1)))
          (i32.add (i32.and (local.get $i) (i32.const 15)) (i32.shl (local.get $half) (i32.const 4)))))
        (i32.store8 (local.get $p) (i32.or (i32.load8_u (local.get $p)) (i32.or
          (i32.shl (i32.and (local.get $b) (i32.const 3)) (i32.const 2))
          (i32.shl (i32.and (local.get $b) (i32.const 12)) (i32.const 4)))))
        (br_if $halves (i32.lt_u (local.tee $half (i32.add (local.get $half) (i32.const 1))) (i32.const 2))))
      (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n)))))
  (func (export "merge_bit1") (param $to i32) (param $from i32) (param $n i32) (param $s i32) (local $i i32)
      (local $j i32) (local $p i32) (local $b i32)
    (loop $next
      (local.set $j (i32.const 0))
      (loop $quarters
        (local.set $b (i32.shr_u (i32.load8_u (i32.add (local.get $from) (local.get $i))) (i32.shl (local.get $j)
            (i32.const 1))))
        (local.set $p (i32.add (i32.add (local.get $to) (i32.shl (i32.and (local.get $i) (i32.const -16))
            (i32.const 2)))
          (i32.add (i32.and (local.get $i) (i32.const 15)) (i32.shl (local.get $j) (i32.const 4)))))
        (i32.store8 (local.get $p) (i32.or (i32.load8_u (local.get $p)) (i32.or
          (i32.shl (i32.and (local.get $b) (i32.const 1)) (local.get $s))
          (i32.shl (i32.and (local.get $b) (i32.const 2)) (i32.add (local.get $s) (i32.const 3))))))
        (br_if $quarters (i32.lt_u (local.tee $j (i32.add (local.get $j) (i32.const 1))) (i32.const 4))))
      (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n)))))
  (func (export "merge_byte1") (param $to i32) (param $from i32) (param $n i32) (param $s i32) (local $i i32)
      (local $j i32) (local $p i32) (local $b i32)
    (loop $next
      (local.set $j (i32.const 0))
      (loop $eighths
        (local.set $b (i32.shr_u (i32.load8_u (i32.add (local.get $from) (local.get $i))) (local.get $j)))
        (local.set $p (i32.add (i32.add (local.get $to) (i32.shl (i32.and (local.get $i) (i32.const -16))
            (i32.const 3)))
          (i32.add (i32.and (local.get $i) (i32.const 15)) (i32.shl (local.get $j) (i32.const 4)))))
        (i32.store8 (local.get $p) (i32.or (i32.load8_u (local.get $p))
          (i32.shl (i32.and (local.get $b) (i32.const 1)) (local.get $s))))
        (br_if $eighths (i32.lt_u (local.tee $j (i32.add (local.get $j) (i32.const 1))) (i32.const 8))))
      (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n)))))
"""

_BARRIER = f"""
  (func $barrier (param $threads i32) (local $generation i32)
    (local.set $generation (i32.atomic.load (i32.const {CONTROL + 4})))
    (if (i32.eq (i32.add (i32.atomic.rmw.add (i32.const {CONTROL}) (i32.const 1)) (i32.const 1)) (local.get $threads))
      (then
        (i32.atomic.store (i32.const {CONTROL}) (i32.const 0))
        (drop (i32.atomic.rmw.add (i32.const {CONTROL + 4}) (i32.const 1)))
        (drop (memory.atomic.notify (i32.const {CONTROL + 4}) (i32.const -1))))
      (else (loop $wait
        (drop (memory.atomic.wait32 (i32.const {CONTROL + 4}) (local.get $generation) (i64.const -1)))
        (br_if $wait (i32.eq (i32.atomic.load (i32.const {CONTROL + 4})) (local.get $generation)))))))
"""

_DECODER = f"""
  (func $slot (param $at i32) (result i32)
    (i32.add
      (i32.add (i32.const {KV}) (i32.mul (i32.const {PAGE_BYTES}) (i32.load (i32.add (i32.const {CONTROL + 1024})
        (i32.shl (i32.div_u (local.get $at) (i32.const {PAGE_TOKENS})) (i32.const 2))))))
      (i32.shl (i32.rem_u (local.get $at) (i32.const {PAGE_TOKENS})) (i32.const 2))))
  (func $append (param $n i32) (param $at i32) (local $row i32) (local $p i32) (local $h i32)
    (loop $rows
      (i32.store (call $slot (i32.add (local.get $at) (local.get $row)))
        (i32.load (i32.add (i32.const {TOKENS}) (i32.shl (local.get $row) (i32.const 2)))))
      (local.set $h (i32.const 0))
      (local.set $p (i32.const 0))
      (loop $past
        (local.set $h (i32.add (i32.add (i32.mul (local.get $h) (i32.const 31)) (i32.load (call $slot
            (local.get $p)))) (i32.const 7)))
        (br_if $past (i32.le_u (local.tee $p (i32.add (local.get $p) (i32.const 1))) (i32.add (local.get $at)
            (local.get $row)))))
      (i32.store (i32.add (i32.const {HIDDEN}) (i32.shl (local.get $row) (i32.const 2))) (local.get $h))
      (br_if $rows (i32.lt_u (local.tee $row (i32.add (local.get $row) (i32.const 1))) (local.get $n)))))
  (func $logits (param $tid i32) (param $threads i32) (param $row i32) (local $v i32) (local $h i32)
    (local.set $h (i32.load (i32.add (i32.const {HIDDEN}) (i32.shl (local.get $row) (i32.const 2)))))
    (local.set $v (local.get $tid))
    (loop $next
      (f32.store (i32.add (i32.const {LOGITS}) (i32.shl (local.get $v) (i32.const 2)))
        (f32.mul (f32.load (i32.add (i32.const {SCALE}) (i32.shl (local.get $v) (i32.const 2))))
          (f32.convert_i32_u (i32.and (i32.const 1023) (i32.add
            (i32.mul (local.get $h) (i32.add (i32.shl (local.get $v) (i32.const 1)) (i32.const 1)))
            (i32.add (i32.mul (i32.const 3) (i32.load8_u (i32.add (i32.const {HIGH}) (local.get $v))))
              (i32.load8_u (i32.add (i32.const {LOW}) (local.get $v)))))))))
      (br_if $next (i32.lt_u (local.tee $v (i32.add (local.get $v) (local.get $threads))) (i32.const {VOCABULARY})))))
  (func (export "prefill") (param $tid i32) (param $threads i32) (param $n i32) (param $at i32) (result i32)
    (if (i32.eqz (local.get $tid)) (then (call $append (local.get $n) (local.get $at))))
    BARRIER (i32.const 0))
  (func (export "head") (param $tid i32) (param $threads i32) (param $row i32) (result i32)
    (call $logits (local.get $tid) (local.get $threads) (local.get $row))
    BARRIER (i32.const 0))
  (func (export "decode") (param $tid i32) (param $threads i32) (param $at i32) (result i32)
    (if (i32.eqz (local.get $tid)) (then (call $append (i32.const 1) (local.get $at))))
    BARRIER (call $logits (local.get $tid) (local.get $threads) (i32.const 0))
    BARRIER (i32.const 0))
"""

_GRAPH = f"""
  (func (export "run") (param $tid i32) (param $threads i32) (param $batch i32) (result i32) (local $i i32)
    (local.set $i (local.get $tid))
    (loop $next
      (f32.store (i32.add (i32.const {Y}) (i32.shl (local.get $i) (i32.const 2)))
        (f32.add (f32.mul (f32.const 2) (f32.load (i32.add (i32.const {X}) (i32.shl (local.get $i) (i32.const 2)))))
          (f32.load (i32.add (i32.const {SCALE}) (i32.shl (i32.and (local.get $i) (i32.const 3)) (i32.const 2))))))
      (if (i32.eqz (i32.and (local.get $i) (i32.const 3))) (then
        (i32.store (i32.add (i32.const {Z}) (local.get $i)) (i32.shr_u (local.get $i) (i32.const 2)))))
      (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (local.get $threads))) (i32.shl
          (local.get $batch) (i32.const 2)))))
    BARRIER (i32.const 0))
"""

_TOTAL = f"""
  (func (export "total") (param $tid i32) (param $threads i32) (result i32)
    (if (i32.eqz (local.get $tid)) (then
      (i32.store (i32.const {SUM}) (i32.add (i32.load (i32.const {WORD}))
        (i32.add (i32.load (i32.const {WORD + 4})) (i32.load (i32.const {WORD + 8})))))))
    BARRIER (i32.const 0))
"""

_SPEECH = f"""
  (func (export "encode") (param $tid i32) (param $threads i32) (param $samples i32) (result i32) (local $i i32)
      (local $h i32)
    (if (i32.eqz (local.get $tid)) (then
      (loop $next
        (local.set $h (i32.add (local.get $h) (i32.trunc_f32_s (f32.mul (f32.const 1000)
          (f32.load (i32.add (i32.const {AUDIO}) (i32.shl (local.get $i) (i32.const 2))))))))
        (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $samples))))
      (f32.store (i32.const {STATES}) (f32.convert_i32_s (local.get $h)))))
    BARRIER (i32.const 0))
  (func (export "decode") (param $tid i32) (param $threads i32) (param $past i32) (param $samples i32) (result i32)
      (local $v i32) (local $letter i32)
    (local.set $letter (i32.add (i32.const 97) (i32.rem_u (i32.add (i32.trunc_f32_s (f32.load (i32.const {STATES})))
      (i32.add (i32.mul (i32.const 5) (local.get $past)) (i32.load (i32.const {TOKEN})))) (i32.const 26))))
    (local.set $v (local.get $tid))
    (loop $next
      (f32.store (i32.add (i32.const {SPOKEN}) (i32.shl (local.get $v) (i32.const 2)))
        (f32.add (f32.convert_i32_u (i32.eq (local.get $v) (local.get $letter)))
          (f32.mul (f32.const 2) (f32.convert_i32_u (i32.and
            (i32.eq (local.get $v) (i32.const 259)) (i32.ge_u (local.get $past) (i32.const 12)))))))
      (br_if $next (i32.lt_u (local.tee $v (i32.add (local.get $v) (local.get $threads))) (i32.const {VOCABULARY}))))
    BARRIER (i32.const 0))
"""

_DETECTOR = f"""
  (func (export "run") (param $tid i32) (param $threads i32) (result i32)
    (if (i32.eqz (local.get $tid)) (then
      (f32.store (i32.const {CHANCE}) (f32.min (f32.const 1) (f32.add (f32.mul (f32.const 0.5)
          (f32.load (i32.const {REMEMBERED})))
        (f32.abs (f32.load (i32.const {SOUND + 4 * (HEARD - 1)}))))))
      (f32.store (i32.const {AFTER}) (f32.abs (f32.load (i32.const {SOUND}))))
      (f32.store (i32.const {AFTER + 4}) (f32.add (f32.const 1) (f32.load (i32.const {REMEMBERED + 4}))))))
    BARRIER (i32.const 0))
"""

DETECTOR_TASK = {
    "type": "speech-detection",
    "sample_rate": SAMPLE_RATE,
    "window": 80,
    "context": HEARD - 80,
    "threshold": 0.5,
    "neg_threshold": 0.25,
    "min_speech_ms": 20,
    "min_silence_ms": 25,
    "speech_pad_ms": 7.3,
}

SPEECH_TASK = {
    "type": "transcription",
    "sample_rate": SAMPLE_RATE,
    "window_seconds": 0.5,
    "min_seconds": 0.1,
    "max_tokens": 24,
    "max_tokens_per_second": 16,
    "start_ids": [258],
    "suppress_ids": [],
    "begin_suppress_ids": [],
}

_BODIES = {"decoder": _DECODER, "graph": _GRAPH, "graphs": _GRAPH + _TOTAL, "speech": _SPEECH, "detector": _DETECTOR}


def wasm(body: str, *, threads: bool) -> bytes:
    """Assemble one variant of a module."""
    shared = f"{MAXIMUM // 65536} shared" if threads else f"{MAXIMUM // 65536}"
    barrier = "(call $barrier (local.get $threads))" if threads else ""
    return bytes(
        wasmtime.wat2wasm(f"""(module
  (import "env" "memory" (memory {-(-KV // 65536)} {shared}))
  (global (export "__stack_pointer") (mut i32) (i32.const {STACKS + STACK}))
  {_BARRIER if threads else ""} {_MERGE} {body.replace("BARRIER", barrier)})""")
    )


def reference_logits(ids: list[int], weights: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """What the decoder module computes, in numpy: float32 [VOCABULARY] after `ids`."""
    h = 0
    for token in ids:
        h = (h * 31 + token + 7) & 0xFFFFFFFF
    v = np.arange(VOCABULARY, dtype=np.int64)
    mixed = (h * (2 * v + 1) + 3 * weights["high"][:VOCABULARY].astype(np.int64) + weights["low"][:VOCABULARY]) & 1023
    return np.asarray(weights["scale"] * mixed.astype(np.float32), np.float32)


def make_weights(seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """`scale` prefers printable characters, so that the nonsense reads like text."""
    random = np.random.default_rng(seed)
    letters = {*(ord(c) for c in "abcdefghijklmnopqrstuvwxyz .")}
    scale = np.full(VOCABULARY, 0.5, np.float32)
    scale[[token for token in range(256) if token in letters]] = 1.0
    scale[256:] = 0.25
    return {
        "scale": scale,
        "high": random.integers(0, 256, CODES, dtype=np.uint8),
        "low": random.integers(0, 128, CODES, dtype=np.uint8),
    }


def make_tokenizer() -> bytes:
    """Byte-level BPE: id = byte, then a few words and the ChatML specials."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = _byte_alphabet()
    vocabulary = {alphabet[byte]: byte for byte in range(256)}
    for word in ("th", "the"):
        vocabulary[word] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h"), ("th", "e")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")])
    return tokenizer.to_str().encode()


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def make_lowered(kind: str = "decoder", *, seed: int = 0, threads: bool = True) -> LoweredModule:
    body = _BODIES[kind]
    plain = wasm(body, threads=False)
    bases = ("simd128", "relaxed", "relaxed16")
    variants = dict.fromkeys(bases, plain)
    if threads:
        shared = wasm(body, threads=True)
        variants |= {f"{base}-threads": shared for base in bases}
    weights = make_weights(seed)
    memory = MemoryPlan(
        static=Region(0, CONTROL),
        control=Region(CONTROL, 1024 + 4 * PAGES),
        stacks=Region(STACKS, MAX_THREADS * STACK),
        stack_bytes=STACK,
        max_threads=MAX_THREADS,
        workspace=Region(WORKSPACE, WORKSPACE_BYTES),
        weights=Region(WEIGHTS, WEIGHTS_END - WEIGHTS),
        kv=Region(KV, PAGES * PAGE_BYTES if kind == "decoder" else 0),
        maximum_bytes=MAXIMUM,
    )
    raw = WeightPlacement("scale", "raw", SCALE, weights["scale"].view(np.uint8))
    if kind == "decoder":
        return LoweredModule(
            kind="decoder",
            variants=variants,
            memory=memory,
            entry_points=(
                EntryPoint("prefill", ("n", "position")),
                EntryPoint("head", ("row",)),
                EntryPoint("decode", ("position",)),
            ),
            inputs=(TensorSlot("tokens", "int32", (CHUNK,), TOKENS, 4 * CHUNK),),
            outputs=(TensorSlot("logits", "float32", (VOCABULARY,), LOGITS, 4 * VOCABULARY),),
            dims={},
            weights=(
                raw,
                WeightPlacement("high", "nibbles", HIGH, weights["high"]),
                WeightPlacement("low", "bytes", LOW, weights["low"]),
            ),
            kv=KVLayout(16, PAGE_TOKENS, PAGE_BYTES, PAGES, CONTROL + 1024),
        )
    if kind == "speech":
        return LoweredModule(
            kind="graph",
            variants=variants,
            memory=memory,
            entry_points=(
                EntryPoint("encode", ("samples",), ("audio",), ("states",)),
                EntryPoint("decode", ("past", "samples"), ("tokens",), ("logits",)),
            ),
            inputs=(
                TensorSlot("audio", "float32", (1, "samples"), AUDIO, 4 * SAMPLE_RATE),
                TensorSlot("tokens", "int64", (1, 1), TOKEN, 8),
            ),
            outputs=(
                TensorSlot("states", "float32", (1,), STATES, 4),
                TensorSlot("logits", "float32", (1, 1, VOCABULARY), SPOKEN, 4 * VOCABULARY),
            ),
            dims={"past": 23, "samples": SAMPLE_RATE},
            weights=(raw,),
        )
    if kind == "detector":
        return LoweredModule(
            kind="graph",
            variants=variants,
            memory=memory,
            entry_points=(EntryPoint("run", (), ("sound", "memory"), ("chance", "after")),),
            inputs=(
                TensorSlot("sound", "float32", (1, HEARD), SOUND, 4 * HEARD),
                TensorSlot("memory", "float32", (2,), REMEMBERED, 8),
            ),
            outputs=(
                TensorSlot("chance", "float32", (1, 1), CHANCE, 4),
                TensorSlot("after", "float32", (2,), AFTER, 8),
            ),
            dims={},
            weights=(raw,),
        )
    several = kind == "graphs"
    x, word = TensorSlot("x", "float32", ("batch", 4), X, 256), TensorSlot("word", "int32", (3,), WORD, 12)
    y, z = TensorSlot("y", "float32", ("batch", 4), Y, 256), TensorSlot("z", "int32", ("batch",), Z, 64)
    total = TensorSlot("sum", "int32", (1,), SUM, 4)
    run = EntryPoint("run", ("batch",), ("x",), ("y", "z"))
    return LoweredModule(
        kind="graph",
        variants=variants,
        memory=memory,
        entry_points=(run, EntryPoint("total", (), ("word",), ("sum",))) if several else (run,),
        inputs=(x, word) if several else (x,),
        outputs=(y, z, total) if several else (y, z),
        dims={"batch": 16},
        weights=(raw,),
    )


def make_model(kind: str = "decoder") -> ModelIR:
    graph = onnx_ir.Model(onnx_ir.Graph([], [], nodes=[], opset_imports={"": 23}, name="fake"), ir_version=10)
    facts = ModelFacts(f"fake-{kind}", "fake", "onnx", "0" * 64, 1024, "Apache-2.0")
    specials = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}
    tokenizer = TokenizerAssets(make_tokenizer(), (259,), 258, 260, CHAT_TEMPLATE, specials)
    if kind == "detector":
        return ModelIR(graph, "graph", facts, task=DETECTOR_TASK)
    if kind == "speech":
        return ModelIR(
            graph, "graph", facts, tokenizer=dataclasses.replace(tokenizer, chat_template=None), task=SPEECH_TASK
        )
    if kind != "decoder":
        return ModelIR(graph, "graph", facts)
    decoder = DecoderFacts(
        layers=1,
        hidden=1,
        intermediate=1,
        heads=1,
        kv_heads=1,
        head_dim=2,
        vocabulary=VOCABULARY,
        context_length=CONTEXT,
    )
    return ModelIR(graph, "decoder", facts, decoder, tokenizer, generation={"temperature": 0.7, "top_p": 0.9})


def make_plan(kind: str = "decoder") -> Plan:
    decoder = kind == "decoder"
    return Plan(
        model=f"fake-{kind}",
        profile="laptop-8gb",
        tensors=(),
        kv=KVPlan(16) if decoder else None,
        context_length=CONTEXT if decoder else 0,
        prefill_chunk=CHUNK if decoder else 0,
        dims={} if decoder else {"batch": 16},
        max_threads=MAX_THREADS,
        variants=VARIANTS,
        activation_bits=8,
        prediction=Prediction(0, 0, 0, 0, 0, 0.0, 0.0),
    )


def write_fake_bundle(
    path: Path | str,
    *,
    kind: str = "decoder",
    seed: int = 0,
    threads: bool = True,
    report: bytes | None = None,
    golden: bool = True,
) -> bundle.Bundle:
    """Write a small, valid bundle; the same arguments give the same bytes. Without `golden`, nothing is run."""
    return bundle.write(
        make_lowered(kind, seed=seed, threads=threads),
        model=make_model(kind),
        plan=make_plan(kind),
        accuracy={},
        report_html=report,
        golden=make_golden if golden else None,
        out=path,
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name in _BODIES:
        written = write_fake_bundle(folder / f"{name}.edgec", kind=name)
        print(json.dumps({"path": str(written.path), "bytes": written.manifest.total_bytes()}))
