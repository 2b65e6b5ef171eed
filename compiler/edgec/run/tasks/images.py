"""A graph on a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import UnsupportedError
from edgec.pictures import Placement, fit, read_image, to_tensor
from edgec.run.tasks.runner import GraphRunner, first_float_output


def image_output(
    runner: GraphRunner, spec: Mapping[str, Any], image: Any, *, rank: int | None = None
) -> tuple[npt.NDArray[np.float32], Placement]:
    """Run the graph on one picture: its first float output (of `rank`) and where the picture lies in the input."""
    if len(runner.inputs) != 1:
        raise UnsupportedError(f"the model has {len(runner.inputs)} inputs, a picture is one")
    slot = runner.inputs[0]
    pixels, placement = fit(read_image(image), spec)
    outputs = runner.run({slot.name: to_tensor(pixels, spec, raw=slot.dtype == "uint8")})
    return first_float_output(outputs, rank), placement
