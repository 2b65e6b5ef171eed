"""Families of `tests.families` compiled and run in wasmtime, and what `transformers` says to the same ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgec.bundle
import edgec.run
from edgec import profiles
from edgec.compress import compress
from edgec.frontend import load
from edgec.ir import ModelIR
from edgec.lower.wasm import lower
from edgec.passes import simplify
from edgec.plan import make_plan
from tests.families import CASES, LENGTH, VOCABULARY
from tests.frontend.decoders import reference_logits, save_reference

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

    def compile(self, out: Path, *, variants: tuple[str, ...] = ("simd128",), **choices: Any) -> Path:
        plan = make_plan(self.model, profiles.load("phone-8gb"), context_length=LENGTH, **choices)
        plan = dataclasses.replace(plan, prefill_chunk=CHUNK, variants=variants)
        compressed = compress(self.model, plan)
        edgec.bundle.write(lower(compressed), model=self.model, plan=plan, accuracy={}, out=out)
        return out

    def float_error(self, out: Path) -> float:
        """Largest difference of the logits of a prefill and of 16 decode steps, all in float32."""
        with edgec.run.load(self.compile(out, precision="float32")) as running:
            found = [*running.logits(IDS[:PREFILL])]
            state = running._require_decoder()
            for token in IDS[PREFILL : PREFILL + STEPS]:
                state.decode(token)
                found.append(state.logits())
        return float(np.abs(np.stack(found) - self.wanted[: PREFILL + STEPS]).max())

    def agreement(self, out: Path, **choices: Any) -> float:
        """Part of 256 positions at which the quantized model has the same most likely id."""
        with edgec.run.load(self.compile(out, **choices)) as running:
            found = np.stack(list(running.logits(IDS)))
        return float((found.argmax(-1) == self.wanted.argmax(-1)).mean())
