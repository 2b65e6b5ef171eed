"""Many views of few pictures: crops, half of them mirrored, for a model that learns from another what is in them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir

from edgec.compress.calibration.samples import Sample, picture_input
from edgec.ir.model import ModelIR
from edgec.pictures import fit, list_pictures, read_image, to_tensor

VIEWS = 1024  # of all pictures together, about
_MOST_OF_ONE = 16
_LEAST_AREA = 0.15  # of a picture that a crop has
_SHAPES = (3 / 4, 4 / 3)  # width to height
_SEED = 20150401


class PictureViews:
    """`len(views)` samples of the pictures in `folder`, several of each, one picture after the other.

    They are the same wherever they are made. Raises `UsageError` as `read_samples` does.
    """

    def __init__(self, model: ModelIR, folder: Path) -> None:
        self._spec, self._value = picture_input(model, folder)
        self._pictures = list_pictures(folder)
        self.of_each = min(_MOST_OF_ONE, max(1, VIEWS // len(self._pictures)))

    @property
    def key(self) -> str:
        """What the views are made of."""
        digest = hashlib.sha256(repr((_SEED, _LEAST_AREA, _SHAPES, self.of_each, dict(self._spec))).encode())
        for picture in self._pictures:
            digest.update(hashlib.sha256(picture.read_bytes()).digest())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._pictures) * self.of_each

    def __iter__(self) -> Iterator[Sample]:
        stretched = {**self._spec, "fit": "stretch"}
        dtype = self._value.dtype
        assert dtype is not None
        for number, picture in enumerate(self._pictures):
            image = read_image(picture)
            for view in range(self.of_each):
                pixels, _ = fit(_crop(image, np.random.default_rng([_SEED, number, view])), stretched)
                array = to_tensor(pixels, self._spec, raw=dtype == onnx_ir.DataType.UINT8)
                yield {str(self._value.name): array.astype(dtype.numpy(), copy=False)}


def _crop(image: Any, rng: np.random.Generator) -> Any:
    """A part of a Pillow image, as what networks that classify are trained with."""
    area = image.width * image.height * rng.uniform(_LEAST_AREA, 1.0)
    shape = math.exp(rng.uniform(math.log(_SHAPES[0]), math.log(_SHAPES[1])))
    width = min(image.width, max(1, round(math.sqrt(area * shape))))
    height = min(image.height, max(1, round(math.sqrt(area / shape))))
    left, top = (int(rng.integers(0, room + 1)) for room in (image.width - width, image.height - height))
    part = image.crop((left, top, left + width, top + height))
    if rng.random() < 0.5:
        from PIL import ImageOps

        part = ImageOps.mirror(part)
    return part


__all__ = ["VIEWS", "PictureViews"]
