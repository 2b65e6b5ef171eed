"""Families of `tests.families` compiled and run in wasmtime, and what `transformers` says to the same ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import onnx_ir

import edgec.bundle
import edgec.run
from edgec import profiles
from edgec.compress import compress, dequantized_model
from edgec.frontend import load
from edgec.ir import CompressedModel, ModelIR
from edgec.ir.weight_use import weight_uses
from edgec.lower.wasm import lower
from edgec.passes import simplify
from edgec.plan import make_plan
from tests.families import CASES, LENGTH, VOCABULARY
from tests.frontend.decoders import prefill_and_steps, reference_logits, save_reference

Logits = npt.NDArray[np.float32]
IDS: Sequence[int] = np.random.default_rng(3).integers(3, VOCABULARY, 256).tolist()
PREFILL, STEPS = 24, 16  # tokens
CHUNK = 10  # tokens of a prefill call


class Family:
    """A random model of a family in `folder`, and its logits `[256, vocabulary]` by `transformers`."""

    def __init__(self, name: str, folder: Path) -> None:
        self.case = CASES[name]
        self.folder = folder
        self.wanted: Logits = reference_logits(save_reference(folder, name, plain=False), list(IDS))
        self.model: ModelIR = simplify(load(folder))
        self.experts = self.model.decoder is not None and self.model.decoder.experts > 0

    def compile(self, out: Path, *, variants: tuple[str, ...] = ("simd128",), **choices: Any) -> Path:
        return self.write(self.compressed(variants, **choices), out)

    def write(self, compressed: CompressedModel, out: Path) -> Path:
        edgec.bundle.write(lower(compressed), model=self.model, plan=compressed.plan, accuracy={}, out=out)
        return out

    def compressed(self, variants: tuple[str, ...] = ("simd128",), **choices: Any) -> CompressedModel:
        plan = make_plan(self.model, profiles.load("phone-8gb"), context_length=LENGTH, **choices)
        return compress(self.model, dataclasses.replace(plan, prefill_chunk=CHUNK, variants=variants))

    def float_error(self, out: Path) -> float:
        """Largest difference of the logits of a prefill and of 16 decode steps, all in float32."""
        with edgec.run.load(self.compile(out, precision="float32")) as running:
            found = [*running.logits(IDS[:PREFILL])]
            state = running._require_decoder()
            for token in IDS[PREFILL : PREFILL + STEPS]:
                state.decode(token)
                found.append(state.logits())
        return float(np.abs(np.stack(found) - self.wanted[: PREFILL + STEPS]).max())

    def quantized_error(self, out: Path) -> float:
        """Error of a model of 4 bits, relative to the logits that its dequantized weights give: the median over
        positions, because a token whose router hesitates may take another expert."""
        compressed = self.compressed(bits=4)
        wanted = prefill_and_steps(dequantized_model(compressed), list(IDS[:40]), prefill=40)
        with edgec.run.load(self.write(compressed, out)) as running:
            found = np.stack(list(running.logits(IDS[:40])))
        return float(np.median(np.sqrt(np.square(found - wanted).mean(-1))) / wanted.std())

    def agreement_of_q4_0(self) -> float:
        """The same with float activations and every matrix in llama.cpp's Q4_0."""
        changed = dataclasses.replace(self.model, model=self.model.model.clone())
        for name, use in weight_uses(changed.model).items():
            value = changed.model.graph.initializers[name]
            assert value.const_value is not None
            matrix = np.asarray(use.to_matrix(value.const_value.numpy()), np.float32)
            padded = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % 32)))
            kind = gguf.GGMLQuantizationType.Q4_0
            rounded = gguf.quants.dequantize(gguf.quants.quantize(padded, kind), kind)[:, : matrix.shape[1]]
            value.const_value = onnx_ir.tensor(use.from_matrix(rounded), name=name)
        found = prefill_and_steps(changed, list(IDS), prefill=len(IDS))
        return float((found.argmax(-1) == self.wanted.argmax(-1)).mean())

    def agreement(self, out: Path, **choices: Any) -> float:
        """Part of 256 positions at which the quantized model has the same most likely id."""
        with edgec.run.load(self.compile(out, **choices)) as running:
            found = np.stack(list(running.logits(IDS)))
        return float((found.argmax(-1) == self.wanted.argmax(-1)).mean())
