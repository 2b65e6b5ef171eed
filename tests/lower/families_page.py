"""Writes docs/families.md: every family of `tests.families`, measured as the tests measure it.

python -m tests.lower.families_page
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgec.frontend.families import FAMILIES
from edgec.frontend.gguf_families import ARCHITECTURES
from tests.families import CASES
from tests.lower.families import IDS, PREFILL, STEPS, Family

PAGE = Path(__file__).resolve().parents[2] / "docs" / "families.md"
HEAD = f"""# Decoder families

Written by `python -m tests.lower.families_page` (`make families`) from `tests/families.py`; do not edit.

A family is an entry in `compiler/edgec/frontend/families.py`: names of tensors and switches of one builder.
`edgec compile` takes a Hugging Face folder of any of them; a field of a configuration that edgec does not know
how to honour is refused by its name before a weight is read. GGUF files are taken of the architectures
{", ".join(ARCHITECTURES)}.

Each row is a model with random weights, two layers and small odd shapes, made by `transformers` in the test.

* *Float error*: the largest difference from the logits of `transformers` (eager attention, float32) over a prefill
  of {PREFILL} tokens and {STEPS} decode steps, when everything is compiled in float32.
* *Top-1*: part of {len(IDS)} positions at which the model has the same most likely token when it is quantized as the
  planner chooses: 8 bits for models this small, 12-bit keys and values, int8 activations. With random weights
  near-ties are everywhere. The tests ask for 95%, or, of a mixture of experts, whose router may hesitate, for more
  than llama.cpp's Q4_0 keeps of the same weights, which then stands in parentheses.

Folders that were quantized elsewhere are read as well: GPTQ, AWQ, bitsandbytes' 4-bit kinds and BitNet's ternary
weights (`quantization_config`); so are ONNX graphs with `com.microsoft.MatMulNBits`. Codes that lie on a grid of ours
are kept ([decision 0018](decisions/0018-weights-quantized-before.md)). Of BitNet, the judge is `transformers` with the
same ternary weights and float activations.

A model with longrope (Phi-3, Phi-4-mini) rotates by its short factors up to the context that it was trained for first.
`--context` beyond that length makes a bundle that rotates all tokens by the long factors, from the first one on.
`transformers` changes over when there are more tokens, llama.cpp with the context as we do: in such a bundle shorter
texts are rotated by the long factors too, and their logits are not those of `transformers`.

| model_type | class | exercised | float error | top-1 |
|---|---|---|--:|--:|
"""


def rows() -> Iterator[str]:
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            family = Family(name, Path(folder) / "model")
            config = json.loads((Path(folder) / "model" / "config.json").read_text())
            error = family.float_error(Path(folder) / "floats.edgec")
            agreement = family.agreement(Path(folder) / "quantized.edgec")
            kept = f"{agreement:.1%}" if agreement >= 0.95 else f"{agreement:.1%} ({family.agreement_of_q4_0():.1%})"
        kind = config["model_type"]
        yield f"| {kind} | {FAMILIES[kind].architecture} | {case.exercises} | {error:.0e} | {kept} |"


if __name__ == "__main__":
    PAGE.write_text(HEAD + "\n".join(rows()) + "\n", encoding="utf-8")
    print(f"wrote {PAGE}")
