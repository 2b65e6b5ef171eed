"""Small random decoders written by `transformers`, and a runner of our graphs to compare with it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir
import onnxruntime
import torch
import transformers
from safetensors.numpy import load_file, save_file

from edgec.ir.model import ModelIR
from tests.families import CASES, SHAPES
from tests.frontend import packers


def save_reference(
    folder: Path, family: str, *, dtype: torch.dtype = torch.float32, plain: bool = True, **config: Any
) -> torch.nn.Module:
    """A random model as a Hugging Face folder; returns it in float32, its parameters rounded to `dtype`.

    `family` is a key of `tests.families.CASES`; `plain` takes only the shapes from there.
    """
    case = CASES[family]
    config_class = getattr(transformers, case.prefix + case.config)
    model_class = getattr(transformers, case.prefix + case.head)
    torch.manual_seed(7)
    settings = {**SHAPES, **config} if plain else {**case.settings(), **config}
    # Other implementations of attention leave soft caps out.
    model = model_class(config_class(**settings, attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = "norm" in name or "ln_" in name
            # Norms start at what does nothing: weights of 1, or of 0 where 1 is added to them, and biases of 0.
            parameter.copy_((parameter if norm else 0) + torch.randn_like(parameter) * (0.3 if norm else 0.1))
            parameter.copy_(parameter.to(dtype))
    if case.ternary and not plain:
        save_ternary(folder, model)
        return model
    copy.deepcopy(model).to(dtype).save_pretrained(folder)
    return model


def save_ternary(folder: Path, model: torch.nn.Module) -> None:
    """Makes the linears but the lm_head ternary, and saves them as `transformers` does those of BitNet."""
    linears = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    packed: dict[str, npt.NDArray[Any]] = {}
    for name, linear in linears:
        weights = linear.weight.detach().numpy()
        scale = np.float16(np.abs(weights).mean())
        ternary = np.clip(np.rint(weights / np.float32(scale)), -1, 1).astype(np.int64)
        packed[f"{name}.weight"] = packers.bitnet(ternary)
        packed[f"{name}.weight_scale"] = np.array([scale])
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(ternary * np.float32(scale)))
    model.save_pretrained(folder)
    save_file({**load_file(folder / "model.safetensors"), **packed}, folder / "model.safetensors")
    path = folder / "config.json"
    quantization = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": quantization}))


def reference_logits(model: torch.nn.Module, ids: list[int]) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        logits: npt.NDArray[np.float32] = model(torch.tensor([ids])).logits[0].numpy()
    return logits


class GraphRunner:
    """A decoder graph in onnxruntime with its KV cache."""

    def __init__(self, model: ModelIR) -> None:
        assert model.decoder is not None
        shape = (1, model.decoder.kv_heads, 0, model.decoder.head_dim)
        self._session = onnxruntime.InferenceSession(
            onnx_ir.to_proto(model.model).SerializeToString(), providers=["CPUExecutionProvider"]
        )
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._past = {
            value.name: np.zeros(shape, np.float32)
            for value in self._session.get_inputs()
            if value.name.startswith("past_key_values")
        }
        self._position = 0

    def step(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """Logits `[len(ids), vocabulary]` of the next tokens."""
        positions = np.arange(self._position, self._position + len(ids), dtype=np.int64)
        results = self._session.run(
            None, {"input_ids": np.array([ids], np.int64), "position_ids": positions[None], **self._past}
        )
        by_name = dict(zip(self._outputs, results, strict=True))
        self._past = {name: by_name[name.replace("past_key_values", "present")] for name in self._past}
        self._position += len(ids)
        logits: npt.NDArray[np.float32] = by_name["logits"][0]
        return logits


def prefill_and_steps(model: ModelIR, ids: list[int], *, prefill: int) -> npt.NDArray[np.float32]:
    """Logits of all positions: `prefill` tokens in two uneven chunks, then one at a time."""
    runner = GraphRunner(model)
    chunks = [ids[: prefill - 3], ids[prefill - 3 : prefill], *([token] for token in ids[prefill:])]
    return np.concatenate([runner.step(chunk) for chunk in chunks])
