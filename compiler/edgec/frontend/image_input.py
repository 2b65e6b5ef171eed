"""The size of an image input where an export leaves it open although the model has only one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir


def fix_image_input(model: onnx_ir.Model, task: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Gives the one image input the sides of the task's images, or those in `config.json`, and three channels.

    Exports by Optimum name all four dimensions, but positions were learnt for one size.
    """
    images = [value for value in model.graph.inputs if value.shape is not None and len(value.shape) == 4]
    if len(images) != 1:
        return
    image = task.get("image") or {}
    learnt = _sides(config)
    height, width = image.get("height", learnt[0]), image.get("width", learnt[1])
    channels = _number(config.get("num_channels")) or _number(_vision(config).get("num_channels")) or 3
    fixed = (None, height, width, channels) if image.get("layout") == "NHWC" else (None, channels, height, width)
    shape = images[0].shape
    assert shape is not None
    images[0].shape = onnx_ir.Shape(
        [dim if isinstance(dim, int) or size is None else size for dim, size in zip(shape.dims, fixed, strict=True)]
    )


def _sides(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Height and width of what the model was trained on."""
    size = config.get("image_size", _vision(config).get("image_size"))
    if isinstance(size, list) and len(size) == 2:
        return _number(size[0]), _number(size[1])
    return _number(size), _number(size)


def _vision(config: Mapping[str, Any]) -> Mapping[str, Any]:
    vision = config.get("vision_config")
    return vision if isinstance(vision, dict) else {}


def _number(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None
