"""Open dimensions of an image input get the model's own size."""

from typing import Any

import onnx_ir
import pytest

from edgec.frontend.image_input import fix_image_input

OPEN = ["batch", "channels", "height", "width"]


def fixed(shapes: list[list[int | str]], task: dict[str, Any], config: dict[str, Any]) -> list[list[str]]:
    values = [onnx_ir.Value(name=f"i{index}", shape=onnx_ir.Shape(shape)) for index, shape in enumerate(shapes)]
    graph = onnx_ir.Graph(values, [], nodes=[], opset_imports={"": 23})
    fix_image_input(onnx_ir.Model(graph, ir_version=10), task, config)
    return [[str(dim) for dim in value.shape or ()] for value in values]


@pytest.mark.parametrize(
    ("task", "config", "expected"),
    [
        ({"image": {"height": 24, "width": 32, "layout": "NCHW"}}, {}, ["batch", "3", "24", "32"]),
        ({"image": {"height": 24, "width": 32, "layout": "NHWC"}}, {}, ["batch", "24", "32", "3"]),
        ({}, {"image_size": 16, "num_channels": 1}, ["batch", "1", "16", "16"]),
        ({}, {"image_size": [8, 16]}, ["batch", "3", "8", "16"]),
        ({}, {"vision_config": {"image_size": 64}}, ["batch", "3", "64", "64"]),
        ({}, {}, ["batch", "3", "height", "width"]),
    ],
)
def test_sizes(task: dict[str, Any], config: dict[str, Any], expected: list[str]) -> None:
    assert fixed([OPEN, ["batch", "sequence"]], task, config) == [expected, ["batch", "sequence"]]


def test_what_the_graph_says_stays() -> None:
    assert fixed([[1, 3, "height", 20]], {}, {"image_size": 16}) == [["1", "3", "16", "20"]]


def test_no_image_or_several() -> None:
    assert fixed([["n", 4]], {}, {"image_size": 16}) == [["n", "4"]]
    assert fixed([OPEN, OPEN], {}, {"image_size": 16}) == [OPEN, OPEN]
