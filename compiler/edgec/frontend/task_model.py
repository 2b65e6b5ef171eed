"""Hugging Face directories that are no decoders: an ONNX file in them, or their export by Optimum."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from edgec.frontend import onnx, optimum
from edgec.frontend.files import model_card_license, read_json, source_sha256
from edgec.frontend.hf_tokenizer import read_tokenizer, tokenizer_files
from edgec.frontend.image_input import fix_image_input
from edgec.frontend.problems import Problem
from edgec.frontend.tasks import describe_task, infer_task
from edgec.frontend.towers import split_towers
from edgec.ir.model import ModelIR
from edgec.ir.store import Store

_GRAPHS = ("model.onnx", "onnx/model.onnx")
_SETTINGS = (
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "preprocessor_config.json",
)


def graph_file(folder: Path) -> Path | None:
    """The ONNX file that the directory brings along."""
    return next((folder / name for name in _GRAPHS if (folder / name).is_file()), None)


def check(folder: Path, *, task: str | None = None, supported_ops: Collection[str] | None = None) -> list[Problem]:
    """What stands against it; the operators of a model that must still be exported are not known yet."""
    graph = graph_file(folder)
    if graph is not None:
        return onnx.check(graph, supported_ops=supported_ops)
    config = read_json(folder / "config.json")
    return optimum.check(folder, config, task or infer_task(folder, config))


def load(
    folder: Path,
    *,
    name: str | None = None,
    task: str | None = None,
    description: Mapping[str, Any] | None = None,
    supported_ops: Collection[str] | None = None,
    store: Store | None = None,
) -> ModelIR:
    """`task` is Optimum's name of it, inferred when None; `description` replaces the one that the files give."""
    config = read_json(folder / "config.json")
    task = task or infer_task(folder, config)
    described = description if description is not None else describe_task(folder, config, task)
    graph = graph_file(folder)
    if graph is not None:
        model = onnx.load(graph, supported_ops=supported_ops)
        facts = model.facts
    else:
        model = optimum.load(folder, config, task, supported_ops=supported_ops, store=store)
        settings = [folder / setting for setting in _SETTINGS if (folder / setting).is_file()]
        sources = [*optimum.weight_files(folder), *settings, *tokenizer_files(folder)]
        facts = dataclasses.replace(model.facts, source_format="optimum", source_sha256=source_sha256(sources))
    fix_image_input(model.model, described, config)
    text = config.get("text_config")
    settings_of_text = text if isinstance(text, dict) else config
    vocabulary = settings_of_text.get("vocab_size")
    named = dataclasses.replace(
        model,
        facts=dataclasses.replace(
            facts,
            name=name or folder.resolve().name,
            architecture=str(config.get("model_type", "onnx")),
            license=model_card_license(folder),
        ),
        tokenizer=read_tokenizer(folder, settings_of_text, eos_token_ids=(), vocabulary=vocabulary)
        if isinstance(vocabulary, int)
        else None,
        task=described,
    )
    return split_towers(named)
