"""Random adapters in the form of the peft library, and the same added to the weights of a model of `transformers`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file

RANK, ALPHA = 4, 10.0


def linears(model: torch.nn.Module, ends: Sequence[str]) -> Iterator[tuple[str, torch.nn.Module, bool]]:
    """(name, module, whether its weight is `[inputs, outputs]`) of the linears whose names end so."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in ends and isinstance(getattr(module, "weight", None), torch.nn.Parameter):
            yield name, module, type(module).__name__ == "Conv1D"


def write_adapter(
    folder: Path, shapes: dict[str, tuple[int, int]], *, seed: int = 5, rank: int = RANK, **config: Any
) -> dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """An adapter of linears (name: outputs, inputs); returns A and B of each."""
    random = np.random.default_rng(seed)
    tensors, pairs = {}, {}
    for name, (outputs, inputs) in shapes.items():
        down = random.normal(0, inputs**-0.5, (rank, inputs)).astype(np.float16).astype(np.float32)
        up = random.normal(0, 0.3, (outputs, rank)).astype(np.float16).astype(np.float32)
        pairs[name] = down, up
        tensors[f"base_model.model.{name}.lora_A.weight"] = down
        tensors[f"base_model.model.{name}.lora_B.weight"] = up
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": ALPHA, "bias": "none", "init_lora_weights": True}
    settings |= {"task_type": "CAUSAL_LM", "lora_dropout": 0.05, "target_modules": sorted(shapes), **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return pairs


def adapt(model: torch.nn.Module, folder: Path, ends: Sequence[str], *, scale: float, **config: Any) -> None:
    """Writes a random adapter of the model's linears, and adds it to their weights."""
    found = list(linears(model, ends))
    shapes = {n: tuple(m.weight.shape[::-1] if turned else m.weight.shape) for n, m, turned in found}
    pairs = write_adapter(folder, shapes, **config)
    with torch.no_grad():
        for name, module, turned in found:
            down, up = pairs[name]
            delta = torch.from_numpy(scale * up @ down)
            module.weight += delta.T if turned else delta
