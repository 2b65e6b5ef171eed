"""Small bundles for each tab, around hand-written modules whose answers are plain to see.

The decoder is that of `tests/run/fake_module.py`, slowed down so that an answer can be watched and stopped. The
encoder's vectors count letters. The classifier's scores are the mean red, green and blue of a picture.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edgec import bundle
from edgec.ir import EntryPoint, LoweredModule, TensorSlot, TokenizerAssets
from tests.run import fake_module as fake

TOKENS = 64  # of the encoder's longest text
WIDTH = 32  # of its vectors: letters differ in the low five bits
IDS = fake.WORKSPACE
MASK = IDS + 4 * TOKENS
HIDDEN = MASK + 4 * TOKENS
SIDE = 8  # of the classifier's picture, pixels
PIXELS = fake.WORKSPACE
SCORES = PIXELS + 4 * 3 * SIDE * SIDE
LABELS = ("red", "green", "blue")

# About a millisecond or two per token.
_WAIT = """
  (func $wait (local $i i32)
    (loop $again (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 3000000)))))
"""
_SLOW_DECODER = _WAIT + fake._DECODER.replace(
    "(call $append (i32.const 1) (local.get $at))", "(call $wait) (call $append (i32.const 1) (local.get $at))"
)

_ENCODER = f"""
  (func (export "run") (param $tid i32) (param $threads i32) (param $n i32) (result i32) (local $i i32)
    (if (i32.eqz (local.get $tid)) (then
      (memory.fill (i32.const {HIDDEN}) (i32.const 0) (i32.mul (local.get $n) (i32.const {4 * WIDTH})))
      (loop $next
        (f32.store (i32.add (i32.const {HIDDEN}) (i32.shl (i32.add (i32.mul (local.get $i) (i32.const {WIDTH}))
            (i32.and (i32.load (i32.add (i32.const {IDS}) (i32.shl (local.get $i) (i32.const 2))))
              (i32.const {WIDTH - 1}))) (i32.const 2)))
          (f32.const 1))
        (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))))
    BARRIER (i32.const 0))
"""

_CLASSIFIER = f"""
  (func (export "run") (param $tid i32) (param $threads i32) (result i32) (local $i i32) (local $at i32)
    (if (i32.eqz (local.get $tid)) (then
      (memory.fill (i32.const {SCORES}) (i32.const 0) (i32.const 12))
      (loop $next
        (local.set $at (i32.add (i32.const {SCORES})
          (i32.shl (i32.div_u (local.get $i) (i32.const {SIDE * SIDE})) (i32.const 2))))
        (f32.store (local.get $at) (f32.add (f32.load (local.get $at))
          (f32.load (i32.add (i32.const {PIXELS}) (i32.shl (local.get $i) (i32.const 2))))))
        (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
          (i32.const {3 * SIDE * SIDE}))))))
    BARRIER (i32.const 0))
"""


def write_bundles(folder: Path) -> list[Path]:
    """Writes `chat.edgec`, `search.edgec`, `images.edgec`, and `story.edgec`: a decoder without a chat template."""
    decoder = dataclasses.replace(fake.make_lowered("decoder"), variants=_variants(_SLOW_DECODER))
    chat = bundle.write(
        decoder,
        model=fake.make_model("decoder"),
        plan=fake.make_plan("decoder"),
        accuracy={},
        out=folder / "chat.edgec",
    )
    model = fake.make_model("decoder")
    assert model.tokenizer is not None
    model = dataclasses.replace(
        model,
        facts=dataclasses.replace(model.facts, name="fake-story"),
        tokenizer=dataclasses.replace(model.tokenizer, chat_template=None),
    )
    story = bundle.write(decoder, model=model, plan=fake.make_plan("decoder"), accuracy={}, out=folder / "story.edgec")
    encoder = _graph(
        _ENCODER,
        ("sequence",),
        inputs=(
            TensorSlot("input_ids", "int32", (1, "sequence"), IDS, 4 * TOKENS),
            TensorSlot("attention_mask", "int32", (1, "sequence"), MASK, 4 * TOKENS),
        ),
        outputs=(TensorSlot("hidden", "float32", (1, "sequence", WIDTH), HIDDEN, 4 * TOKENS * WIDTH),),
        dims={"sequence": TOKENS},
    )
    search = _write(
        encoder,
        folder / "search.edgec",
        {"type": "embedding", "pooling": "mean", "normalize": True, "max_length": TOKENS},
        TokenizerAssets(fake.make_tokenizer(), ()),
    )
    classifier = _graph(
        _CLASSIFIER,
        (),
        inputs=(TensorSlot("pixels", "float32", (1, 3, SIDE, SIDE), PIXELS, 4 * 3 * SIDE * SIDE),),
        outputs=(TensorSlot("scores", "float32", (1, 3), SCORES, 12),),
        dims={},
    )
    image = {
        "width": SIDE,
        "height": SIDE,
        "layout": "NCHW",
        "channels": "RGB",
        "fit": "stretch",
        "interpolation": "bilinear",
        "mean": [0, 0, 0],
        "std": [4096, 4096, 4096],
    }
    task = {"type": "image-classification", "image": image, "labels": list(LABELS), "scores": "logits"}
    images = _write(classifier, folder / "images.edgec", task, None)
    return [chat.path, search, images, story.path]


def _variants(body: str) -> dict[str, bytes]:
    plain, shared = fake.wasm(body, threads=False), fake.wasm(body, threads=True)
    bases = ("simd128", "relaxed", "relaxed16")
    return dict.fromkeys(bases, plain) | {f"{base}-threads": shared for base in bases}


def _graph(
    body: str,
    parameters: tuple[str, ...],
    *,
    inputs: tuple[TensorSlot, ...],
    outputs: tuple[TensorSlot, ...],
    dims: dict[str, int],
) -> LoweredModule:
    return dataclasses.replace(
        fake.make_lowered("graph"),
        variants=_variants(body),
        entry_points=(EntryPoint("run", parameters, _names(inputs), _names(outputs)),),
        inputs=inputs,
        outputs=outputs,
        dims=dims,
    )


def _names(slots: tuple[TensorSlot, ...]) -> tuple[str, ...]:
    return tuple(slot.name for slot in slots)


def _write(lowered: LoweredModule, path: Path, task: dict[str, object], tokenizer: TokenizerAssets | None) -> Path:
    model = dataclasses.replace(fake.make_model("graph"), task=task, tokenizer=tokenizer)
    return bundle.write(lowered, model=model, plan=fake.make_plan("graph"), accuracy={}, out=path).path
