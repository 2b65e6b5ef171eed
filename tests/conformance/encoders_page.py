"""Writes docs/encoders.md: every model of `tests.encoders`, measured as the tests measure it.

python -m tests.conformance.encoders_page
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgec.frontend.optimum_export import main as export
from tests.encoders import CASES, REFUSED, SEQUENCE, SIZE, Encoder

PAGE = Path(__file__).resolve().parents[2] / "docs" / "encoders.md"
HEAD = f"""# Encoders and vision models

Written by `python -m tests.conformance.encoders_page` (`make encoders`) from `tests/encoders.py`; do not edit.

Everything that is no decoder comes as ONNX, from any exporter; a Hugging Face folder is exported by Optimum first
(extra `optimum`). There is no list of architectures: what counts are the operators, and `edgec inspect MODEL` says in
advance which of them stand in the way. These architectures are tried.

Each row is a model of random weights with small odd shapes, made by `transformers` in the test, exported by Optimum
and run on {SEQUENCE} tokens or a picture of {SIZE} x {SIZE}.

* *Float error*: the largest difference from what `transformers` computes, relative to the largest magnitude (at
  least 1), when everything is compiled in float32.
* *Quantized*: the cosine between the outputs of `transformers` and of the bundle that `edgec compile` makes by itself
  for `laptop-8gb`.

| model_type | task | exercised | float error | quantized |
|---|---|---|--:|--:|
"""


def rows() -> Iterator[str]:
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            with contextlib.redirect_stdout(io.StringIO()):
                encoder = Encoder(name, folder / "model")
                assert export(str(encoder.folder), str(folder / "onnx"), case.task, "18") == 0, name
            shutil.copy(folder / "onnx" / "model.onnx", encoder.folder)  # once for both
            exact = encoder.compare(encoder.compile(folder / "float.edgec", precision="float32"))
            small = encoder.compare(encoder.compile(folder / "small.edgec"))
        kind = encoder.reference.config.model_type
        yield f"| {kind} | {case.task} | {case.exercises} | {exact.error:.0e} | {small.cosine:.4f} |"


def refused() -> str:
    lines = [f"* `{name}`: {why}" for name, why in REFUSED.items()]
    return "\n## What is not possible so far\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(HEAD + "\n".join(rows()) + "\n" + refused(), encoding="utf-8")
    print(f"wrote {PAGE}")
