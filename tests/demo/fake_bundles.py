"""Small bundles for each tab, around hand-written modules whose answers are plain to see.

The decoder is that of `tests/run/fake_module.py`, slowed down so that an answer can be watched and stopped; the speech
model and the speech detector are those of that file. The encoder's vectors count letters. The classifier's scores are
the mean red, green and blue of a picture, and so are the vectors of the model of texts and images; those of texts count
the letters r, g and b. The text reader finds what is dark, and reads a and b in turns.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from edgec import bundle
from edgec.ir import EntryPoint, LoweredModule, TensorPlan, TensorSlot, TokenizerAssets
from edgec.run import make_golden
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
VECTOR = SCORES + 16  # of the model of texts and images: that of a text, then that of a picture
FOUND = (4, 32)  # of the text finder's pictures: most steps on each side, pixels of a step
LINE = (48, 8, 32)  # of the text reader's pictures: height, pixels of a character, most characters
FINDER = fake.WORKSPACE
MAP = FINDER + 12 * (FOUND[0] * FOUND[1]) ** 2
READER = MAP + 4 * (FOUND[0] * FOUND[1]) ** 2
CHARACTERS = READER + 12 * LINE[0] * LINE[1] * LINE[2]

# At least twenty milliseconds per token: the longest answer outlasts what a busy machine needs to press a key.
_WAIT = """
  (func $wait (local $i i32)
    (loop $again (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 40000000)))))
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

_TOWERS = f"""
  (func (export "text") (param $tid i32) (param $threads i32) (param $n i32) (result i32) (local $i i32) (local $at i32)
    (if (i32.eqz (local.get $tid)) (then
      (memory.fill (i32.const {VECTOR}) (i32.const 0) (i32.const 12))
      (loop $next
        (local.set $at (i32.and (i32.load (i32.add (i32.const {IDS}) (i32.shl (local.get $i) (i32.const 2))))
          (i32.const 31)))
        (local.set $at (i32.add (i32.const {VECTOR}) (select (i32.const 0)
          (select (i32.const 4) (select (i32.const 8) (i32.const {HIDDEN - VECTOR})
            (i32.eq (local.get $at) (i32.const {ord("b") & 31})))
            (i32.eq (local.get $at) (i32.const {ord("g") & 31})))
          (i32.eq (local.get $at) (i32.const {ord("r") & 31})))))
        (f32.store (local.get $at) (f32.add (f32.load (local.get $at)) (f32.const 1)))
        (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))))
    BARRIER (i32.const 0))
"""

_READER = f"""
  (func (export "detect") (param $tid i32) (param $threads i32) (param $h i32) (param $w i32) (result i32)
      (local $i i32)
    (if (i32.eqz (local.get $tid)) (then
      (loop $next
        (f32.store (i32.add (i32.const {MAP}) (i32.shl (local.get $i) (i32.const 2)))
          (f32.convert_i32_u (f32.lt (f32.load (i32.add (i32.const {FINDER}) (i32.shl (local.get $i) (i32.const 2))))
            (f32.const 0.5))))
        (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
          (i32.mul (i32.const {FOUND[1] ** 2}) (i32.mul (local.get $h) (local.get $w))))))))
    BARRIER (i32.const 0))
  (func (export "recognize") (param $tid i32) (param $threads i32) (param $t i32) (result i32) (local $i i32)
    (if (i32.eqz (local.get $tid)) (then
      (memory.fill (i32.const {CHARACTERS}) (i32.const 0) (i32.mul (local.get $t) (i32.const 12)))
      (loop $next
        (f32.store (i32.add (i32.const {CHARACTERS}) (i32.add (i32.mul (local.get $i) (i32.const 12))
            (i32.add (i32.const 4) (i32.shl (i32.and (local.get $i) (i32.const 1)) (i32.const 2)))))
          (f32.const 0.875))
        (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $t))))))
    BARRIER (i32.const 0))
"""


def write_bundles(folder: Path) -> list[Path]:
    """A bundle for each tool, `story.edgec` (a decoder without a chat template), `nested.edgec` (it has two depths) and
    `voice.edgec` (it hears speech).
    """
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
    nested = _write_nested(decoder, folder / "nested.edgec")
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
    task = {"type": "image-classification", "image": _IMAGE, "labels": list(LABELS), "scores": "logits"}
    images = _write(classifier, folder / "images.edgec", task, None)
    speech = fake.write_fake_bundle(folder / "speech.edgec", kind="speech")
    voice = fake.write_fake_bundle(folder / "voice.edgec", kind="detector")
    small = [_write_gallery(folder / "gallery.edgec"), _write_reader(folder / "reading.edgec")]
    return [chat.path, search, images, story.path, nested, speech.path, voice.path, *small]


def _write_nested(decoder: LoweredModule, path: Path) -> Path:
    """Its scale is another one at each of two depths, and the low codes are those of the finer one."""
    raw, high, low = decoder.weights
    coarser = 2 * raw.data.view(np.float32)
    depths = (
        dataclasses.replace(raw, depths=(4,)),
        dataclasses.replace(low, kind="raw", depths=(4,)),
        dataclasses.replace(raw, data=coarser.view(np.uint8), depths=(3,)),
    )
    lowered = dataclasses.replace(decoder, weights=(*depths, high))
    model = fake.make_model("decoder")
    weight = TensorPlan("w", 4, 32, "asymmetric", "", "nested", (3,))
    plan = dataclasses.replace(fake.make_plan("decoder"), tensors=(weight,))
    return bundle.write(lowered, model=model, plan=plan, accuracy={}, out=path, golden=make_golden).path


_COLORS = {"channels": "RGB", "mean": [0, 0, 0], "std": [4096, 4096, 4096]}
_IMAGE = {
    **_COLORS,
    "width": SIDE,
    "height": SIDE,
    "layout": "NCHW",
    "fit": "stretch",
    "interpolation": "bilinear",
}


def _write_gallery(path: Path) -> Path:
    """Texts and images in one space of three dimensions."""
    inputs = (
        TensorSlot("input_ids", "int32", (1, "sequence"), IDS, 4 * TOKENS),
        TensorSlot("attention_mask", "int32", (1, "sequence"), MASK, 4 * TOKENS),
        TensorSlot("pixels", "float32", (1, 3, SIDE, SIDE), PIXELS, 4 * 3 * SIDE * SIDE),
    )
    outputs = (
        TensorSlot("text_embeds", "float32", (1, 3), VECTOR, 12),
        TensorSlot("image_embeds", "float32", (1, 3), SCORES, 12),
    )
    entries = (
        EntryPoint("text", ("sequence",), ("input_ids", "attention_mask"), ("text_embeds",)),
        EntryPoint("image", (), ("pixels",), ("image_embeds",)),
    )
    body = _TOWERS + _CLASSIFIER.replace('"run"', '"image"')
    lowered = _graphs(body, entries, inputs=inputs, outputs=outputs, dims={"sequence": TOKENS})
    task = {
        "type": "text-image-similarity",
        "text": {"max_length": TOKENS},
        "image": _IMAGE,
        "scale": 10,
        "bias": 0,
        "scores": "softmax",
        "normalize": True,
    }
    return _write(lowered, path, task, TokenizerAssets(fake.make_tokenizer(), ()))


def _write_reader(path: Path) -> Path:
    """Lines of text, found and read."""
    (steps, step), (height, character, most) = FOUND, LINE
    inputs = (
        TensorSlot("picture", "float32", (1, 3, f"{step}*h", f"{step}*w"), FINDER, 12 * (steps * step) ** 2),
        TensorSlot("line", "float32", (1, 3, height, f"{character}*t"), READER, 12 * height * character * most),
    )
    outputs = (
        TensorSlot("map", "float32", (1, 1, f"{step}*h", f"{step}*w"), MAP, 4 * (steps * step) ** 2),
        TensorSlot("characters", "float32", (1, "t", 3), CHARACTERS, 12 * most),
    )
    entries = (
        EntryPoint("detect", ("h", "w"), ("picture",), ("map",)),
        EntryPoint("recognize", ("t",), ("line",), ("characters",)),
    )
    dims = {"h": steps, "t": most, "w": steps}
    lowered = _graphs(_READER, entries, inputs=inputs, outputs=outputs, dims=dims)
    colors = {**_COLORS, "std": [255, 255, 255]}
    find = {"longest": steps * step, "threshold": 0.3, "box_threshold": 0.6, "unclip": 1.6, "shortest": 3}
    read = {"height": height, "least_width": 2 * character, "characters": ["", "a", "b"]}
    task = {"type": "ocr", "detect": {**colors, **find}, "recognize": {**colors, **read}, "min_score": 0.5}
    return _write(lowered, path, task, None)


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
    entry = EntryPoint("run", parameters, _names(inputs), _names(outputs))
    return _graphs(body, (entry,), inputs=inputs, outputs=outputs, dims=dims)


def _graphs(
    body: str,
    entries: tuple[EntryPoint, ...],
    *,
    inputs: tuple[TensorSlot, ...],
    outputs: tuple[TensorSlot, ...],
    dims: dict[str, int],
) -> LoweredModule:
    return dataclasses.replace(
        fake.make_lowered("graph"),
        variants=_variants(body),
        entry_points=entries,
        inputs=inputs,
        outputs=outputs,
        dims=dims,
    )


def _names(slots: tuple[TensorSlot, ...]) -> tuple[str, ...]:
    return tuple(slot.name for slot in slots)


def _write(lowered: LoweredModule, path: Path, task: dict[str, object], tokenizer: TokenizerAssets | None) -> Path:
    model = dataclasses.replace(fake.make_model("graph"), task=task, tokenizer=tokenizer)
    return bundle.write(lowered, model=model, plan=fake.make_plan("graph"), accuracy={}, out=path).path
