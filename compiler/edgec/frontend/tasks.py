"""What a Hugging Face model is for, as the `task` data of `docs/bundle-format.md`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec.errors import CorruptFileError, ModelError, UnsupportedError
from edgec.frontend import towers
from edgec.frontend.files import inside, read_json

# Suffix of the architecture in `config.json` -> name of the task, as Optimum calls it.
ARCHITECTURE_TASKS = {
    "ForSequenceClassification": "text-classification",
    "ForImageClassification": "image-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForMaskedImageModeling": "masked-im",
    "ForObjectDetection": "object-detection",
    "ForSemanticSegmentation": "semantic-segmentation",
    "ForDepthEstimation": "depth-estimation",
    "ForAudioClassification": "audio-classification",
    "ForMultipleChoice": "multiple-choice",
    "ForZeroShotImageClassification": "zero-shot-image-classification",
    "Model": "feature-extraction",
}
_ACTIVATIONS = {"Sigmoid": "sigmoid", "Identity": "logits", "Softmax": "softmax"}
# The first position is the one after the padding's id.
_POSITIONS_AFTER_PADDING = (
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "data2vec-text", "mpnet"),
    *("ibert", "esm", "longformer", "xmod", "lilt", "layoutlmv3"),
)
_INTERPOLATION = {2: "bilinear", 3: "bicubic"}
_MODULE_KINDS = ("Transformer", "Pooling", "Normalize")


def infer_task(folder: Path, config: Mapping[str, Any]) -> str:
    """The task's name. Raises `UnsupportedError` when the directory does not say."""
    if (folder / "modules.json").is_file():
        return "feature-extraction"
    for architecture in config.get("architectures") or []:
        for suffix, task in ARCHITECTURE_TASKS.items():
            if str(architecture).endswith(suffix):
                return task
    named = f"`architectures` in its `config.json` is {config.get('architectures')!r}"
    if any(str(name).endswith("ForConditionalGeneration") for name in config.get("architectures") or []):
        raise UnsupportedError(
            f"`{folder.name}` is a `{config.get('model_type')}` of several parts, which need a file each: {named}",
            hint="export it with Optimum (`optimum-cli export onnx`), and compile the ONNX file of each part",
        )
    raise UnsupportedError(
        f"`{folder.name}` does not say what it is for: {named}",
        hint=f"name a task, one of {', '.join(sorted(set(ARCHITECTURE_TASKS.values())))}",
    )


def describe_task(folder: Path, config: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Pre- and post-processing of a task; `{"type": task}` where a runtime has none."""
    if task == "feature-extraction" and (folder / "modules.json").is_file():
        return _embedding(folder, config)
    text = config.get("text_config")
    if task in ("feature-extraction", "zero-shot-image-classification") and isinstance(text, dict):
        image = _image(folder)
        return (
            {"type": towers.TASK, "text": {"max_length": _max_length(folder, text)}, "image": image}
            if image
            else {"type": "tensors"}
        )
    if task == "image-classification":
        image = _image(folder)
        return (
            {"type": task, "image": image, "labels": _labels(config), "scores": "logits"}
            if image
            else {"type": "tensors"}
        )
    if task in ("text-classification", "token-classification"):
        described = {"type": task, "labels": _labels(config), "max_length": _max_length(folder, config)}
        return described | ({"scores": _scores(config)} if task == "text-classification" else {})
    if task == "semantic-segmentation":
        image = _image(folder)
        return (
            {"type": task, "image": image, "labels": _labels(config)}
            if image and image["fit"] != "crop"  # what is cut off would have no class
            else {"type": "tensors"}
        )
    if task == "object-detection":
        return {"type": "tensors"}  # Hugging Face detectors have no decoder of boxes here
    return {"type": task}


def read_task(path: Path) -> dict[str, Any]:
    """A task written by hand: a JSON object with a `type`."""
    task = read_json(path)
    if not isinstance(task.get("type"), str):
        raise ModelError(f"`{path.name}` has no `type`", hint="see the tasks in docs/bundle-format.md")
    return task


def _embedding(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Sentence-transformers' modules: a transformer, a pooling, maybe a normalization."""
    try:
        modules = json.loads((folder / "modules.json").read_bytes())
        steps = [(str(module["type"]).rsplit(".", 1)[-1], str(module["path"])) for module in modules]
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptFileError("`modules.json` is not a list of modules", hint="download the file again") from error
    foreign = [kind for kind, _ in steps if kind not in _MODULE_KINDS]
    if foreign:
        raise UnsupportedError(
            f"`modules.json` has the modules {', '.join(f'`{kind}`' for kind in foreign)}",
            hint=f"supported are {', '.join(_MODULE_KINDS)}",
        )
    places = dict(steps)
    if "Pooling" not in places:
        raise UnsupportedError("`modules.json` has no pooling", hint=f"supported are {', '.join(_MODULE_KINDS)}")
    pooling = read_json(inside(folder, places["Pooling"], named_by="modules.json") / "config.json")
    modes = [key for key, value in pooling.items() if key.startswith("pooling_mode_") and value is True]
    names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(modes) != 1 or modes[0] not in names:
        raise UnsupportedError(
            f"the pooling is {', '.join(f'`{mode}`' for mode in modes) or 'none'}",
            hint=f"supported are {', '.join(f'`{mode}`' for mode in names)}, one at a time",
        )
    return {
        "type": "embedding",
        "pooling": names[modes[0]],
        "normalize": "Normalize" in places,
        "max_length": _max_length(folder, config),
    }


def _scores(config: Mapping[str, Any]) -> str:
    """What makes scores of logits: as sentence-transformers wrote it down, or as `transformers` decides."""
    own = config.get("sentence_transformers")
    named = (own.get("activation_fn") if isinstance(own, dict) else None) or config.get(
        "sbert_ce_default_activation_function"
    )
    if isinstance(named, str):
        kind = named.rsplit(".", 1)[-1]
        if kind not in _ACTIVATIONS:
            raise UnsupportedError(
                f"`config.json` asks for the activation function `{named}`",
                hint=f"supported are {', '.join(_ACTIVATIONS)}",
            )
        return _ACTIVATIONS[kind]
    problem = config.get("problem_type")
    if problem == "regression":
        return "logits"
    labels = config.get("id2label")
    count = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    return "sigmoid" if problem == "multi_label_classification" or count == 1 else "softmax"


def _max_length(folder: Path, config: Mapping[str, Any]) -> int:
    """The shortest of what the files say, in tokens."""
    positions, padding = config.get("max_position_embeddings"), config.get("pad_token_id", 1)
    if type(positions) is int and type(padding) is int and config.get("model_type") in _POSITIONS_AFTER_PADDING:
        positions -= padding + 1
    limits = [positions]
    for name, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        if (folder / name).is_file():
            limits.append(read_json(folder / name).get(key))
    return min((limit for limit in limits if type(limit) is int and limit > 0), default=512)


def _labels(config: Mapping[str, Any]) -> list[str] | None:
    named = config.get("id2label")
    if not isinstance(named, dict) or not all(str(key).isdigit() for key in named):
        return None
    ordered = sorted(named.items(), key=lambda item: int(item[0]))
    if [int(key) for key, _ in ordered] != list(range(len(ordered))):
        return None
    return [str(label) for _, label in ordered]


def _image(folder: Path) -> dict[str, Any] | None:
    """How pictures become tensors; None when `preprocessor_config.json` asks for more than we have."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return None
    settings = read_json(path)
    interpolation = _INTERPOLATION.get(settings.get("resample", 2))
    size = _geometry(settings)
    if interpolation is None or size is None:
        return None
    scale = float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 1.0
    normalized = settings.get("do_normalize", True)
    mean = settings.get("image_mean", [0.5] * 3) if normalized else [0.0] * 3
    std = settings.get("image_std", [0.5] * 3) if normalized else [1.0] * 3
    return {
        **size,
        "layout": "NCHW",
        "channels": "RGB",
        "interpolation": interpolation,
        "mean": [float(value) / scale for value in mean],
        "std": [float(value) / scale for value in std],
    }


def _geometry(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    size, crop = settings.get("size"), settings.get("crop_size")
    if isinstance(size, int):
        size = {"height": size, "width": size}
    if isinstance(crop, int):
        crop = {"height": crop, "width": crop}
    if not isinstance(size, dict):
        return None
    edge = size.get("shortest_edge")
    if settings.get("do_center_crop") and isinstance(crop, dict) and crop.get("height") == crop.get("width"):
        resized = edge or (size.get("height") if size.get("height") == size.get("width") else None)
        if not resized or crop["height"] > resized:
            return None
        return {**crop, "fit": "crop", "crop": crop["height"] / resized}
    if edge is not None:
        # Resizing to the edge over `crop_pct`, then cropping to the edge.
        return {"height": edge, "width": edge, "fit": "crop", "crop": float(settings.get("crop_pct") or 1.0)}
    if "height" in size and "width" in size:
        return {"height": size["height"], "width": size["width"], "fit": "stretch"}
    return None
