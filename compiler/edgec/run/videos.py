"""Frames of videos, by PyAV (the extra `video`), which is needed only when one is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm"})


def frames_of_video(path: Path, every: float) -> Iterator[tuple[int, Image]]:
    """The first frame at or after each multiple of `every` seconds, upright, with its time in milliseconds.

    Raises `UsageError` for what is no video, `MissingDependencyError` without PyAV.
    """
    try:
        import av
    except ImportError:
        raise MissingDependencyError("videos need PyAV", hint="install it: `pip install 'edgec[video]'`") from None
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UsageError(f"the video `{path}` has sound only")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            first: float | None = None
            wanted = 0
            for frame in container.decode(stream):
                if frame.time is None:
                    continue
                first = frame.time if first is None else first
                time = round(1000 * (frame.time - first))
                if time < 1000 * wanted * every:
                    continue
                wanted = int(time / (1000 * every)) + 1
                image: Image = frame.to_image()
                yield time, image.rotate(frame.rotation, expand=True) if frame.rotation else image
    except av.FFmpegError as error:
        reason = error.strerror or "not a known format, or damaged"
        raise UsageError(f"the video `{path}` cannot be read ({reason})") from error
