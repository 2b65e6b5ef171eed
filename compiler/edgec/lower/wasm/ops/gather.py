"""Reading rows and elements at computed places; rows of a quantized table are embeddings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgec.errors import UnsupportedError
from edgec.lower.wasm.graph_context import GraphContext, activation_bytes, label
from edgec.lower.wasm.graph_dims import symbols, to_amount, to_scalar
from edgec.lower.wasm.graph_values import Lazy, TensorView, dtype_of, memory_dtype
from edgec.lower.wasm.kernels.embedding import embedding
from edgec.lower.wasm.kernels.gather import gather, gather_elements
from edgec.lower.wasm.ops.linear import Matrix
from edgec.lower.wasm.work import Work, plus
from edgec.passes import dims as d
from edgec.passes.shape_context import axis_of


def lower_gather(context: GraphContext, node: ir.Node) -> None:
    data, indices, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert data is not None and indices is not None
    if context.packed(data) is not None:
        _embedding(context, data, indices, output)
        return
    axis = axis_of(node.attributes.get_int("axis", 0), len(context.shape(data)))
    target = context.allocate(output.name or "gather", dtype_of(output), context.shape(output), value=output)
    gathered(context, context.dense(data), axis, context.dense(indices), target)
    context.define(output, target)


def gathered(context: GraphContext, source: TensorView, axis: int, places: TensorView, target: TensorView) -> None:
    """The slices at `places` (int32 or int64) along an axis into `target`."""
    shape = source.shape
    sizes = (d.product(shape[:axis]), shape[axis], d.product(shape[axis + 1 :]), d.product(places.shape))
    dtype, index_dtype = source.dtype, memory_dtype(places.dtype)
    context.call(
        ("gather", *sizes, dtype, index_dtype),
        lambda isa: gather(
            outer=sizes[0], axis=sizes[1], inner=sizes[2], count=sizes[3], dtype=dtype, index_dtype=index_dtype
        ),
        [source, places, target],
        symbols(sizes),
        work=_taken_work(source, places, target),
    )


def _taken_work(source: TensorView, places: TensorView, target: TensorView) -> Work:
    """As many elements of the source are read as are written, whatever its size."""
    written = activation_bytes([target])
    if source.storage.region == "weights":
        return Work(weights=written, activations=activation_bytes([places, target]))
    return Work(activations=plus(written, activation_bytes([places, target])))


def taken(
    context: GraphContext, view: TensorView, axis: int, positions: npt.NDArray[np.int64], name: str
) -> TensorView:
    """The slices at constant `positions` along an axis."""
    if not (view.contiguous and isinstance(view.offset, int)):
        view = context.copied(view)
    storage = context.weight(f"{name}.positions", lambda: positions.astype(np.int32))
    places = TensorView.whole(storage, "int32", positions.shape)
    shape = [len(positions) if i == axis else dim for i, dim in enumerate(view.shape)]
    target = context.allocate(name, view.dtype, shape)
    gathered(context, view, axis, places, target)
    return target


def _embedding(context: GraphContext, table: ir.Value, indices: ir.Value, output: ir.Value) -> None:
    packed = context.packed(table)
    assert packed is not None
    matrix = Matrix(context, packed.name, packed, lambda: packed.high, (packed.rows, packed.columns))
    ids = context.operand(indices, context.shape(indices))
    if ids.dtype != "int32":
        cast = ("Cast", (), "int32", (ids.tree,))
        ids = Lazy(cast, ids.leaves, "int32", ids.shape)
    places = context.computed(ids)
    target = context.allocate(output.name or "embedding", "float32", context.shape(output), value=output)
    rows, columns, bits, span = packed.rows, packed.columns, packed.bits, packed.span
    row = -(-sum(storage.bytes for storage in matrix.storages) // packed.rows)
    context.call(
        ("embedding", rows, columns, bits, span),
        lambda isa: embedding(rows=rows, columns=columns, bits=bits, span=span),
        [places, *matrix.storages, target],
        [to_scalar(d.product(places.shape))],
        work=Work(
            weights=to_amount(*places.shape, row),
            activations=activation_bytes([places, target]),
            shape=f"{columns}",
        ),
    )
    context.define(output, target)


def lower_gather_elements(context: GraphContext, node: ir.Node) -> None:
    data, indices, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert data is not None and indices is not None
    source, places = context.dense(data), context.dense(indices)
    shape, data_shape = places.shape, source.shape
    if not shape:
        raise UnsupportedError(f"{label(node)} gathers from a scalar")
    axis = axis_of(node.attributes.get_int("axis", 0), len(shape))
    target = context.allocate(output.name or "gather", dtype_of(output), shape, value=output)
    dtype, index_dtype = source.dtype, memory_dtype(places.dtype)
    context.call(
        ("gather_elements", shape, data_shape, axis, dtype, index_dtype),
        lambda isa: gather_elements(
            shape=shape, data_shape=data_shape, axis=axis, dtype=dtype, index_dtype=index_dtype
        ),
        [source, places, target],
        symbols([*shape, *data_shape]),
        work=_taken_work(source, places, target),
    )
    context.define(output, target)


OPS: dict[str, Callable[[GraphContext, ir.Node], None]] = {
    "Gather": lower_gather,
    "GatherElements": lower_gather_elements,
}
