"""Low-rank adapters as the peft library saves them: `adapter_config.json` and `adapter_model.safetensors`.

An adapter adds `scale * (B @ A)` to linears of a model (Hu et al., "LoRA: Low-Rank Adaptation of Large Language
Models", 2022); `scale` is `lora_alpha / r`, or `lora_alpha / sqrt(r)` (Kalajdzievski, "A Rank Stabilization Scaling
Factor for Fine-Tuning with LoRA", 2023). Its tensors are named after the checkpoint's linears, which are brought into
the names and orders of `edgec/ir/model.py` by the same rules as the checkpoint itself: these are about outputs, the
rows of B, alone. Whatever else an adapter may hold or ask for is refused by its name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from edgec.errors import CorruptFileError, ModelError, UnsupportedError
from edgec.frontend.checkpoint import Layout, fitted, stored_tensors
from edgec.frontend.families import FAMILIES
from edgec.frontend.files import read_json, source_sha256
from edgec.frontend.foreign import check_whole, pickled_weights
from edgec.frontend.hf import is_decoder, weight_files
from edgec.frontend.hf_config import decoder_config
from edgec.frontend.problems import Problem, refuse
from edgec.frontend.safetensors_file import FLOAT_DTYPES, SafetensorsEntry, SafetensorsWeights, read_header
from edgec.frontend.tensors import LINEARS, LM_HEAD
from edgec.frontend.values import Values
from edgec.ir.adapter import LowRank
from edgec.ir.model import ModelIR
from edgec.ir.weight_use import mark_grid

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_READ = ("r", "lora_alpha", "use_rslora", "alpha_pattern", "peft_type")
# What says nothing about the mathematics of the saved tensors.
_NEUTRAL = frozenset(
    [
        *("auto_mapping", "base_model_name_or_path", "base_model_revision", "revision", "inference_mode", "task_type"),
        *("target_modules", "exclude_modules", "rank_pattern", "fan_in_fan_out", "lora_dropout", "peft_version"),
        *("layers_pattern", "layers_to_transform", "loftq_config", "eva_config", "megatron_config", "megatron_core"),
        *("runtime_config", "ensure_weight_tying", "qalora_group_size", "loraplus_lr_ratio", "lora_ga_config"),
    ]
)
# Ways to begin training that leave the base model as it is; others move part of it into the adapter.
_INITIALIZATIONS = (True, False, "gaussian", "eva", "orthogonal", "loftq")
_TENSOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")
_MERGE = "merge it with the peft library (`merge_and_unload`), and compile what that saves"


@dataclass(frozen=True)
class _Pair:
    """The two matrices of one linear of the checkpoint."""

    down: SafetensorsEntry  # A, [rank, inputs]
    up: SafetensorsEntry  # B, [outputs, rank]


class Adapter:
    """A folder of the peft library. Nothing is read from its weights but their names and shapes, until asked."""

    def __init__(self, folder: Path) -> None:
        """Raises `UnsupportedError` for other kinds of adapters, `ModelError` and `CorruptFileError` for damage."""
        self.folder = folder
        self.name = folder.resolve().name
        self.config = _read_config(folder)
        refuse(self.name, _problems(self.config), file=CONFIG, hint=_MERGE)
        self.pairs = _pairs(_weights(folder), self.name)

    def sha256(self) -> str:
        return source_sha256([self.folder / CONFIG, self.folder / WEIGHTS])

    def scale(self, module: str, rank: int) -> float:
        alpha = _number(self.config, "lora_alpha", 8.0)
        for pattern, value in (self.config.get("alpha_pattern") or {}).items():
            if _matches(str(pattern), module):
                alpha = _number({"alpha_pattern": value}, "alpha_pattern", 8.0)
                break
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def low_rank(self, module: str, *, transposed: bool) -> tuple[npt.NDArray[np.float32], LowRank]:
        """(B in the checkpoint's orientation of weights, the pair) of a linear of the checkpoint."""
        pair = self.pairs[module]
        down, up = pair.down.read(), pair.up.read()
        for array, entry in ((down, pair.down), (up, pair.up)):
            if not np.isfinite(array).all():
                raise ModelError(f"`{entry.name}` of the adapter `{self.name}` has values that are not finite")
        low = LowRank(down, up, self.scale(module, down.shape[0]))
        return up.T if transposed else up, low


def linears(
    adapter: Adapter,
    shapes: Mapping[str, tuple[int, int]],
    architecture: str,
    source: Path | None,
    *,
    tied: bool = False,
) -> dict[str, LowRank]:
    """The adapter's pairs by the names of our linears (`model.layers.0.self_attn.q_proj`), of which `shapes` has the
    outputs and inputs.

    `source` is the Hugging Face folder of the model; without one the model's family has to store linears as we do.
    Raises `ModelError` for linears that the model does not have and for shapes that are not the model's.
    """
    places = _plain_places(shapes, architecture) if source is None else _places_in(source)
    found: dict[str, LowRank] = {}
    used: set[str] = set()
    for name, place in places.items():
        module = _known(adapter.pairs, place.module)
        if module is None or name not in shapes:
            continue
        used.add(module)
        up, low = adapter.low_rank(module, transposed=place.transposed)
        outputs, inputs = place.shape[::-1] if place.transposed else place.shape
        if low.up.shape[0] != outputs or low.down.shape[1] != inputs:
            raise ModelError(
                f"the adapter `{adapter.name}` changes `{module}` of {low.down.shape[1]} inputs and "
                f"{low.up.shape[0]} outputs, the model's has {inputs} and {outputs}",
                hint="the adapter is of another model",
            )
        for take in place.take:
            up = take(up)
        if (up.shape[0], low.down.shape[1]) != shapes[name]:
            raise ModelError(f"`{name}` is of another shape in `{source}`", hint="the folder is of another model")
        found[name] = dataclasses.replace(low, up=np.ascontiguousarray(up, np.float32))
    _refuse_others(adapter, used, tied)
    return found


def merge(model: ModelIR, adapter: Adapter, source: Path | None) -> ModelIR:
    """`model` with the adapter added to its weights, when these are read.

    Raises what `linears` raises, and `UnsupportedError` for models that are no decoders.
    """
    if model.decoder is None:
        raise UnsupportedError(
            f"adapters are merged into decoder language models, `{model.facts.name}` is none", hint=_MERGE
        )
    initializers = model.model.graph.initializers
    shapes = {
        name.removesuffix(".weight"): (extents[1], extents[0])
        for name, value in initializers.items()
        if (name == LM_HEAD or name.removesuffix(".weight").rpartition(".")[2] in LINEARS)
        and value.const_value is not None
        and len(extents := tuple(value.const_value.shape.numpy())) == 2
    }
    tied = model.decoder.tied_embedding
    for name, low in linears(adapter, shapes, model.facts.architecture, source, tied=tied).items():
        value = initializers[f"{name}.weight"]
        assert value.const_value is not None
        value.const_value = _added(value.const_value, low)
        mark_grid(value, None)
    digest = hashlib.sha256(f"{model.facts.source_sha256}\n{adapter.sha256()}".encode()).hexdigest()
    return dataclasses.replace(model, facts=dataclasses.replace(model.facts, source_sha256=digest))


def _added(tensor: onnx_ir.TensorProtocol, low: LowRank) -> onnx_ir.LazyTensor:
    """Of a weight `[inputs, outputs]`."""

    def read() -> onnx_ir.TensorProtocol:
        delta = (low.up.astype(np.float64) @ low.down.astype(np.float64)).T * low.scale
        return onnx_ir.Tensor((tensor.numpy() + delta).astype(np.float32), name=tensor.name)

    return onnx_ir.LazyTensor(read, tensor.dtype, onnx_ir.Shape(tuple(tensor.shape.numpy())), name=tensor.name)


# Names


@dataclass(frozen=True)
class _Place:
    """Where the checkpoint has one of our linears: see `checkpoint.Stored`."""

    module: str
    shape: tuple[int, ...]
    transposed: bool
    take: Sequence[Any]


def _places_in(source: Path) -> dict[str, _Place]:
    """By the configuration of a Hugging Face folder."""
    config = read_json(source / "config.json")
    if not is_decoder(config) and config.get("model_type") not in FAMILIES:
        raise UnsupportedError(f"`{source.name}` is no decoder language model", hint=_MERGE)
    decoder = decoder_config(config)
    layout = fitted(decoder.layout, SafetensorsWeights(weight_files(source)).shapes())
    places: dict[str, _Place] = {}
    for name, stored in stored_tensors(decoder.spec, layout).items():
        part = name.removesuffix(".weight").rpartition(".")[2]
        head = name == LM_HEAD and not decoder.spec.facts.tied_embedding
        if not name.endswith(".weight") or ".experts." in name or not (head or part in LINEARS):
            continue
        transposed = layout.transposed and part in LINEARS
        take = stored.take
        places[name.removesuffix(".weight")] = _Place(
            stored.names[0].removesuffix(".weight"), stored.shape, transposed, take
        )
    return places


def _plain_places(shapes: Mapping[str, tuple[int, int]], architecture: str) -> dict[str, _Place]:
    """Of a family whose checkpoints name and order linears as we do."""
    family = FAMILIES.get(architecture)
    if family is None or not _stores_plainly(family.layout, family.defaults):
        raise UnsupportedError(
            f"checkpoints of the architecture `{architecture}` name their linears in a way of their own",
            hint="give the Hugging Face folder of the model, whose `config.json` tells",
        )
    return {name: _Place(name, shape, False, ()) for name, shape in shapes.items()}


def _stores_plainly(layout_of: Any, defaults: Mapping[str, Any]) -> bool:
    try:
        layout: Layout = layout_of(Values(defaults))
    except Exception:  # noqa: BLE001 - it needs a configuration, so it is not the same for all models
        return False
    changed = {part.rpartition(".")[2] for part in layout.parts} | set(layout.factors)
    joined = layout.qkv or layout.gate_up or layout.transposed or layout.interleaved
    return not joined and layout.model == "model." and not changed & {*LINEARS, "lm_head"}


def _known(pairs: Mapping[str, _Pair], module: str) -> str | None:
    """The adapter's name of a linear: adapters of the bare model lack the first part."""
    return next((name for name in (module, module.partition(".")[2]) if name in pairs), None)


def _refuse_others(adapter: Adapter, used: set[str], tied: bool) -> None:
    others = sorted(adapter.pairs.keys() - used)
    if not others:
        return
    shown = ", ".join(f"`{name}`" for name in others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
    if tied and any(name.endswith("lm_head") for name in others):
        raise UnsupportedError(
            f"the adapter `{adapter.name}` changes {shown}, which the model shares with its embedding"
        )
    if any("expert" in name for name in others):
        raise UnsupportedError(f"the adapter `{adapter.name}` changes experts ({shown})", hint=_MERGE)
    raise ModelError(
        f"the adapter `{adapter.name}` changes {shown}, which the model does not have",
        hint="the adapter is of another model, or changes parts that edgec leaves alone",
    )


# The folder


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ModelError(
            f"`{folder}` is not a folder",
            hint=f"an adapter is a folder with `{CONFIG}` and `{WEIGHTS}`, as peft saves it",
        )
    if not (folder / CONFIG).is_file():
        raise ModelError(
            f"`{folder.name}` has no `{CONFIG}`", hint="an adapter is a folder as the peft library saves it"
        )
    return read_json(folder / CONFIG)


def _problems(config: Mapping[str, Any]) -> list[Problem]:
    """Every field that asks for something else than plain LoRA."""
    problems: list[Problem] = []
    kind = config.get("peft_type")
    if kind != "LORA":
        return [Problem("peft_type", repr(kind), "'LORA'")]
    for field, value in config.items():
        if field == "init_lora_weights":
            if value not in _INITIALIZATIONS:
                problems.append(Problem(field, repr(value), "initializations that leave the base model as it is"))
        elif field == "bias":
            if value != "none":
                problems.append(Problem(field, repr(value), "'none'"))
        elif field not in _READ and field not in _NEUTRAL and value:
            problems.append(Problem(field, repr(value), "left out"))
    return problems


def _weights(folder: Path) -> dict[str, SafetensorsEntry]:
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = pickled_weights(folder)
        raise ModelError(
            f"`{folder.name}` has no `{WEIGHTS}`{f', only `{pickled}`' if pickled else ''}",
            hint="save it as safetensors; pickled weights are not read" if pickled else "download the adapter again",
        )
    check_whole(path)
    return read_header(path)


def _pairs(entries: Mapping[str, SafetensorsEntry], adapter: str) -> dict[str, _Pair]:
    sides: dict[str, dict[str, SafetensorsEntry]] = {}
    others = []
    for name, entry in entries.items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            others.append(name)
            continue
        if entry.dtype not in FLOAT_DTYPES or len(entry.shape) != 2 or not all(entry.shape):
            raise UnsupportedError(f"`{name}` of the adapter `{adapter}` is {entry.dtype} {list(entry.shape)}")
        sides.setdefault(match[1], {})[match[2]] = entry
    if others:
        shown = ", ".join(f"`{name}`" for name in others[:4])
        more = f" and {len(others) - 4} more" if len(others) > 4 else ""
        raise UnsupportedError(f"the adapter `{adapter}` has tensors beside those of LoRA: {shown}{more}", hint=_MERGE)
    if not sides:
        raise ModelError(f"the adapter `{adapter}` changes nothing", hint="download the adapter again")
    pairs = {}
    for module, pair in sides.items():
        if len(pair) != 2 or pair["A"].shape[0] != pair["B"].shape[1]:
            raise CorruptFileError(
                f"the adapter `{adapter}` has no whole pair of matrices for `{module}`",
                hint="download the adapter again",
            )
        pairs[module] = _Pair(pair["A"], pair["B"])
    return pairs


def _matches(pattern: str, module: str) -> bool:
    """Whether `pattern` is the module's name or its end. Regular expressions, which peft takes, can run for ever."""
    if not re.fullmatch(r"[\w.]+", pattern):
        raise UnsupportedError(
            f"`{CONFIG}` has the `alpha_pattern` `{pattern}`, supported are ends of names", hint=_MERGE
        )
    return module == pattern or module.endswith(f".{pattern}")


def _number(config: Mapping[str, Any], field: str, default: float) -> float:
    value = config.get(field, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ModelError(f"`{CONFIG}` has the `{field}` {value!r}, a number is needed")
    return float(value)


__all__ = ["CONFIG", "Adapter", "linears", "merge"]
