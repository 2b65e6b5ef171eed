"""Pictures to input tensors (docs/tasks.md, "Images"): for compiled models and for calibrating them.

Pillow is needed only when a picture is read.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgec.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True)
class Placement:
    """Where the input came from: source = input / scale + offset, in pixels."""

    scale_x: float
    scale_y: float
    offset_x: int
    offset_y: int
    width: int  # of the source
    height: int


def read_image(image: Any) -> Image:
    """Upright RGB from a path, a Pillow image or uint8 [height, width, 3 or 4]."""
    pil = _pillow()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4) or 0 in image.shape:
            raise UsageError(
                f"an array of {image.dtype} {list(image.shape)} is no picture", hint="give uint8 [h, w, 3]"
            )
        opened = pil.fromarray(image)
    elif isinstance(image, pil.Image):
        opened = image
    else:
        opened = _open(Path(image))
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(opened)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        return _on_white(upright.convert("RGBA"))
    return upright.convert("RGB")


def _pillow() -> Any:
    try:
        import PIL.Image
    except ImportError:
        raise MissingDependencyError("pictures need Pillow", hint="install it: `pip install pillow`") from None
    return PIL.Image


def _open(path: Path) -> Image:
    with _reading(path), path.open("rb") as stream:
        opened: Image = _pillow().open(stream)
        opened.load()
        return opened


def frames_of(path: Path, content: bytes, most: int) -> Iterator[tuple[int | None, Image]]:
    """The picture in a file of that `content` with the number None, or frames of an animation, spread evenly."""
    with _reading(path):
        opened: Any = _pillow().open(io.BytesIO(content))
        count = getattr(opened, "n_frames", 1)
        if count == 1:
            opened.load()
            yield None, opened
            return
        for index in sorted(
            {round(i * (count - 1) / (most - 1)) for i in range(most)} if count > most else range(count)
        ):
            opened.seek(index)
            yield index, opened.copy()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Errors of Pillow in our words."""
    try:
        yield
    except _pillow().DecompressionBombError:
        raise UsageError(f"the picture `{path}` is too large") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a known format, or damaged"
        raise UsageError(f"the picture `{path}` cannot be read ({reason})") from error


def _on_white(image: Image) -> Image:
    rgba = np.asarray(image).astype(np.int32)
    alpha, color = rgba[..., 3:], rgba[..., :3]
    white: Image = _pillow().fromarray(((alpha * color + (255 - alpha) * 255 + 127) // 255).astype(np.uint8))
    return white


def fit(image: Image, spec: Mapping[str, Any]) -> tuple[npt.NDArray[np.uint8], Placement]:
    """The picture in the input's size, uint8 [height, width, 3], and where it lies."""
    width, height = int(spec["width"]), int(spec["height"])
    if spec["fit"] == "letterbox":
        ratio = min(width / image.width, height / image.height)
        size = max(1, math.floor(image.width * ratio)), max(1, math.floor(image.height * ratio))
        pixels = np.full((height, width, 3), int(spec["pad"]), np.uint8)
        pixels[: size[1], : size[0]] = np.asarray(_resize(image, size, spec))
        return pixels, Placement(ratio, ratio, 0, 0, image.width, image.height)
    left, top, box_width, box_height = 0, 0, image.width, image.height
    if spec["fit"] == "crop":
        left, top, box_width, box_height = _crop_box(image.width, image.height, width, height, float(spec["crop"]))
    cut = image.crop((left, top, left + box_width, top + box_height))
    placement = Placement(width / box_width, height / box_height, left, top, image.width, image.height)
    return np.asarray(_resize(cut, (width, height), spec)), placement


def _crop_box(w: int, h: int, width: int, height: int, crop: float) -> tuple[int, int, int, int]:
    """(left, top, width, height) of the largest centred box of the target's shape, times `crop`."""
    box_width: float = w
    box_height: float = w * height / width
    if box_height > h:
        box_width, box_height = h * width / height, h
    cut_width = max(1, math.floor(box_width * crop + 0.5))
    cut_height = max(1, math.floor(box_height * crop + 0.5))
    return (w - cut_width) // 2, (h - cut_height) // 2, cut_width, cut_height


def _resize(image: Image, size: tuple[int, int], spec: Mapping[str, Any]) -> Image:
    """Horizontally first; Pillow 13 would take the other order for pictures that are higher than wide."""
    resampling = _pillow().Resampling
    kind = resampling.BICUBIC if spec["interpolation"] == "bicubic" else resampling.BILINEAR
    return image.resize((size[0], image.height), kind).resize(size, kind)


def pixels_of(image: Image) -> npt.NDArray[np.uint8]:
    """uint8 [height, width, 3]."""
    return np.asarray(image)


def resized(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """uint8 [height, width, 3] in another size (width, height), bilinear."""
    return np.asarray(_resize(_pillow().fromarray(pixels), size, {"interpolation": "bilinear"}))


def to_tensor(pixels: npt.NDArray[np.uint8], spec: Mapping[str, Any], *, raw: bool) -> npt.NDArray[Any]:
    """[1, 3, h, w] or [1, h, w, 3]: float32 `(v - mean) / std`, or uint8 pixels when `raw`."""
    values: npt.NDArray[Any] = _ordered(pixels, spec) if raw else colors(pixels, spec)
    if spec["layout"] == "NCHW":
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values[np.newaxis])


def colors(pixels: npt.NDArray[np.uint8], spec: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """float32 [height, width, 3]: `(v - mean) / std` in the order of `channels`."""
    mean, std = (np.array(spec[name], np.float64) for name in ("mean", "std"))
    return ((_ordered(pixels, spec) - mean) / std).astype(np.float32)


def _ordered(pixels: npt.NDArray[np.uint8], spec: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    return pixels[..., ::-1] if spec["channels"] == "BGR" else pixels


def list_pictures(folder: Path) -> list[Path]:
    """The pictures of `folder` itself, by name. Raises `UsageError` where there are none."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not found:
        raise UsageError(f"`{folder}` has no pictures", hint=f"known are {', '.join(SUFFIXES)}")
    return found
