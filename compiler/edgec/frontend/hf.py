"""Hugging Face directories of decoder language models: `config.json`, safetensors, tokenizer.

No torch, no transformers: the configuration selects a family, the weights are checked by name and
shape against what the family needs, and nothing else is read until a stage asks for a tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec.errors import ModelError
from edgec.frontend.checkpoint import CheckpointWeights, check_tensors, fitted, needed_tensors
from edgec.frontend.decoder import build_decoder
from edgec.frontend.files import inside, model_card_license, read_json, source_sha256
from edgec.frontend.foreign import check_whole, pickled_weights
from edgec.frontend.hf_config import config_problems, decoder_config
from edgec.frontend.hf_tokenizer import read_tokenizer, tokenizer_files
from edgec.frontend.prequantized import METHODS, PrequantizedWeights
from edgec.frontend.problems import Problem, refuse
from edgec.frontend.safetensors_file import FLOAT_DTYPES, SafetensorsWeights
from edgec.frontend.tensors import EMBEDDING, LM_HEAD, parameter_count
from edgec.ir.model import ModelFacts, ModelIR

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def is_decoder(config: Mapping[str, Any]) -> bool:
    """Whether `config.json` says that the model predicts the next token."""
    architectures = config.get("architectures") or []
    return any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)


def check(folder: Path) -> list[Problem]:
    """Everything in the configuration and the tensor list that cannot be compiled; reads no weight."""
    config = read_json(folder / "config.json")
    problems = config_problems(config)
    stored = SafetensorsWeights(weight_files(folder))
    if any(problem.subject.startswith("quantization_config") for problem in problems):
        return problems
    foreign = sorted(_source(config, stored).foreign_dtypes())
    if foreign:
        problems.append(Problem("tensor dtype", ", ".join(foreign), ", ".join(sorted(FLOAT_DTYPES))))
    return problems


def load(folder: Path, *, name: str | None = None) -> ModelIR:
    """Reads a directory. Raises `UnsupportedError`, `ModelError` or `CorruptFileError` before any weight is read."""
    refuse(folder.name, check(folder), file="config.json")
    config = read_json(folder / "config.json")
    decoder = decoder_config(config)
    files = weight_files(folder)
    weights = _source(config, SafetensorsWeights(files), transposed=decoder.layout.transposed)
    spec, layout = decoder.spec, fitted(decoder.layout, weights.shapes())
    embedding, head = layout.stored(EMBEDDING), layout.stored(LM_HEAD)
    if spec.facts.tied_embedding and embedding not in weights.shapes() and head in weights.shapes():
        weights.rename(head, embedding)  # some checkpoints store a tied matrix under the other name
    if isinstance(weights, PrequantizedWeights):
        weights.leave_out_empty_biases(needed_tensors(spec, layout))
    check_tensors(spec, layout, weights.shapes())
    generation = generation_config(folder)
    ends = end_ids(generation, config)
    sources = [folder / "config.json", *files, *tokenizer_files(folder)]
    if (folder / "generation_config.json").is_file():
        sources.append(folder / "generation_config.json")
    model_name = name or folder.resolve().name
    model = ModelIR(
        model=build_decoder(spec, CheckpointWeights(spec, layout, weights), name=model_name),
        kind="decoder",
        facts=ModelFacts(
            name=model_name,
            architecture=decoder.family.name,
            source_format="hf",
            source_sha256=source_sha256(sources),
            parameters=parameter_count(spec),
            license=model_card_license(folder),
        ),
        decoder=spec.facts,
        tokenizer=read_tokenizer(folder, config, eos_token_ids=ends, vocabulary=spec.facts.vocabulary),
        generation=sampling_defaults(generation),
    )
    model.verify()
    return model


def _source(
    config: Mapping[str, Any], stored: SafetensorsWeights, *, transposed: bool = False
) -> SafetensorsWeights | PrequantizedWeights:
    """The checkpoint's tensors as floats, whether it was quantized or not."""
    quantization = config.get("quantization_config")
    if not quantization:
        return stored
    method = METHODS[quantization["quant_method"]]
    return PrequantizedWeights(stored, method, quantization, transposed=transposed)


def has_weights(folder: Path) -> bool:
    """Whether a directory has safetensors under the names that are read."""
    return any((folder / name).is_file() for name in (SINGLE, INDEX))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a directory, complete according to the index if there is one."""
    index_path = folder / INDEX
    if not index_path.is_file():
        single = folder / SINGLE
        if single.is_file():
            check_whole(single)
            return [single]
        pickled = pickled_weights(folder)
        raise ModelError(
            f"`{folder.name}` has neither `{SINGLE}` nor `{INDEX}`{f', only `{pickled}`' if pickled else ''}",
            hint="convert the weights to safetensors; pickled weights are not read"
            if pickled
            else "download the model's weights too",
        )
    index = read_json(index_path)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise ModelError(f"`{INDEX}` has no `weight_map` of tensor names to file names")
    shards = {shard: inside(folder, shard, named_by=INDEX) for shard in sorted(set(weight_map.values()))}
    absent = [shard for shard, path in shards.items() if not path.is_file()]
    if absent:
        raise ModelError(
            f"`{INDEX}` lists missing shards: {', '.join(f'`{shard}`' for shard in absent)}",
            hint="download the missing files",
        )
    for path in shards.values():
        check_whole(path)
    stored = SafetensorsWeights(list(shards.values())).entries
    for tensor, shard in weight_map.items():
        if tensor not in stored or stored[tensor].path != shards[shard]:
            raise ModelError(
                f"`{INDEX}` says that `{tensor}` is in `{shard}`, but it is not",
                hint="download the index and the shards again",
            )
    return list(shards.values())


def sampling_defaults(generation: Mapping[str, Any]) -> dict[str, Any]:
    """The model's own sampling defaults under the names of `docs/runtime-abi.md`."""
    defaults: dict[str, Any] = {}
    if generation.get("do_sample"):
        defaults["temperature"] = float(generation.get("temperature") or 1.0)
        for key, kind in (("top_k", int), ("top_p", float), ("min_p", float)):
            if generation.get(key) is not None:
                defaults[key] = kind(generation[key])
    if generation.get("repetition_penalty") is not None:
        defaults["repetition_penalty"] = float(generation["repetition_penalty"])
    return defaults


def generation_config(folder: Path) -> dict[str, Any]:
    """What `generation_config.json` says, if there is one."""
    path = folder / "generation_config.json"
    return read_json(path) if path.is_file() else {}


def end_ids(generation: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[int, ...]:
    """Ids that end an answer."""
    value = generation.get("eos_token_id", config.get("eos_token_id"))
    if value is None:
        return ()
    values = value if isinstance(value, list) else [value]
    if not all(type(item) is int and item >= 0 for item in values):
        raise ModelError(f"`eos_token_id` is {value!r}, expected token ids")
    return tuple(values)
