"""A small convolutional classifier, made from a seed, and pictures for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx.helper as oh
from PIL import Image

from edgec.ir.model import ModelIR
from edgec.passes import simplify
from tests.compress.graphs import FLOAT, model_ir

SIZE, CLASSES = 24, 20


def classifier() -> ModelIR:
    """A stem, two inverted residual blocks (the second one can be left out) and a linear classifier."""
    rng = np.random.default_rng(31)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 1.5 / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    weights = {"zero": np.float32(0), "six": np.float32(6), "flat": np.array([1, -1], np.int64)}
    nodes = []

    def conv(source: str, name: str, *shape: int, clip: bool = True, **attributes: object) -> str:
        weights[name], weights[f"{name}.bias"] = weight(*shape), 0.1 * weight(shape[0], 1)[:, 0]
        nodes.append(oh.make_node("Conv", [source, name, f"{name}.bias"], [f"{name}.y"], **attributes))
        if clip:
            nodes.append(oh.make_node("Clip", [f"{name}.y", "zero", "six"], [f"{name}.z"]))
        return f"{name}.z" if clip else f"{name}.y"

    value = conv("image", "stem", 8, 3, 3, 3, pads=[0, 0, 1, 1], strides=[2, 2])
    value = conv(value, "project", 32, 8, 1, 1, clip=False)
    for block in ("first", "second"):
        inner = conv(value, f"{block}.expand", 96, 32, 1, 1)
        inner = conv(inner, f"{block}.depthwise", 96, 1, 3, 3, group=96, pads=[1, 1, 1, 1])
        inner = conv(inner, f"{block}.project", 32, 96, 1, 1, clip=False)
        nodes.append(oh.make_node("Add", [inner, value], [f"{block}.sum"]))
        value = f"{block}.sum"
    value = conv(value, "head", 128, 32, 1, 1)
    weights["fc"], weights["fc.bias"] = 2 * weight(128, CLASSES), weight(CLASSES)
    nodes += [
        oh.make_node("GlobalAveragePool", [value], ["pooled"]),
        oh.make_node("Reshape", ["pooled", "flat"], ["features"]),
        oh.make_node("Gemm", ["features", "fc", "fc.bias"], ["logits"]),
    ]
    inputs = [oh.make_tensor_value_info("image", FLOAT, [1, 3, SIZE, SIZE])]
    outputs = [oh.make_tensor_value_info("logits", FLOAT, [1, CLASSES])]
    image = {
        "width": SIZE, "height": SIZE, "layout": "NCHW", "channels": "RGB", "fit": "crop", "crop": 0.875,
        "interpolation": "bicubic", "mean": [127, 127, 127], "std": [64, 64, 64],
    }  # fmt: skip
    task = {
        "type": "image-classification",
        "image": image,
        "labels": [f"class {number}" for number in range(CLASSES)],
        "scores": "logits",
    }
    return simplify(dataclasses.replace(model_ir(nodes, inputs, outputs, weights), task=task))


def pictures(folder: Path, count: int = 24) -> Path:
    """Gratings of many colours, angles and widths."""
    y, x = np.mgrid[0:40, 0:48]
    for number in range(count):
        rng = np.random.default_rng([32, number])
        waves = [np.sin(rng.uniform(-0.8, 0.8) * x + rng.uniform(-0.8, 0.8) * y + rng.uniform(0, 6)) for _ in range(3)]
        pixels = 127 + 110 * np.stack(waves, -1) + rng.normal(0, 8, (40, 48, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03}.png")
    return folder
