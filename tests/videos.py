"""Small videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
from PIL import Image

RATE = 10  # frames a second


def write_video(path: Path, colors: Sequence[str], *, seconds: int, codec: str = "libvpx") -> None:
    """Every color for some seconds; `codec` is one that the format of the path's suffix holds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for color in colors:
            picture = Image.new("RGB", (64, 48), color)
            for _ in range(seconds * RATE):
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
