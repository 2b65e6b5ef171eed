"""Texts and images in one space (docs/tasks.md, "Text and image similarity")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import UsageError
from edgec.run.exp64 import exp
from edgec.run.tasks import embedding
from edgec.run.tasks.classification import Classification, softmax
from edgec.run.tasks.images import image_output
from edgec.run.tasks.runner import GraphRunner
from edgec.run.tokenizer import Tokenizer

Vectors = npt.NDArray[np.float32]
TASK = "text-image-similarity"
TEXT_GRAPH, IMAGE_GRAPH = "text", "image"


def embed_texts(
    runner: GraphRunner, tokenizer: Tokenizer, task: Mapping[str, Any], texts: Sequence[str], *, pad_token_id: int
) -> Vectors:
    """float32 [texts, width]."""
    settings = {**task["text"], "normalize": task["normalize"]}
    return embedding.embed(runner, tokenizer, settings, texts, pad_token_id=pad_token_id)


def embed_images(runner: GraphRunner, task: Mapping[str, Any], images: Sequence[Any]) -> Vectors:
    """float32 [images, width]."""
    rows = [image_output(runner, task["image"], image)[0].reshape(-1) for image in images]
    if task["normalize"]:
        rows = [embedding.normalized(row.astype(np.float64)) for row in rows]
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


def compare(task: Mapping[str, Any], texts: Vectors, images: Vectors) -> Vectors:
    """The logits of every text with every image, float32 [texts, images]. Raises `UsageError` for other widths."""
    if not len(texts) or not len(images):
        return np.zeros((len(texts), len(images)), np.float32)
    if texts.shape[1] != images.shape[1]:
        raise UsageError(f"vectors of {texts.shape[1]} and of {images.shape[1]} numbers cannot be compared")
    wide = images.astype(np.float64)
    rows = [np.cumsum(text * wide, axis=1)[:, -1] for text in texts.astype(np.float64)]  # added one after the other
    return np.asarray(np.stack(rows) * task["scale"] + task["bias"], np.float32)


def choose(task: Mapping[str, Any], labels: Sequence[str], logits: Vectors, top_k: int) -> list[Classification]:
    """The labels that fit one image best, of the logits of each."""
    values = logits.reshape(-1).astype(np.float64)
    scores = softmax(values) if task["scores"] == "softmax" else 1 / (1 + exp(-values))
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [Classification(int(index), labels[index], float(scores[index])) for index in order]
