"""The passes of `simplify`, in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection

import onnx_ir as ir

from edgec.errors import ModelError
from edgec.ir.model import ModelIR
from edgec.passes.base import GraphPass, verify
from edgec.passes.chain_pools import ChainPools
from edgec.passes.channels_last import ChannelsLast
from edgec.passes.expand_contrib import ExpandContrib
from edgec.passes.expand_conv_transpose import ExpandConvTranspose
from edgec.passes.expand_functions import ExpandFunctions
from edgec.passes.fold_affine import FoldAffine
from edgec.passes.fold_batch_norm import FoldBatchNorm
from edgec.passes.fold_constants import FoldConstants
from edgec.passes.fold_pad import FoldPad
from edgec.passes.fold_shapes import FoldShapes
from edgec.passes.fuse_attention import FuseAttention
from edgec.passes.fuse_gate_up import FuseGateUp
from edgec.passes.fuse_gelu import FuseGelu
from edgec.passes.fuse_hard_swish import FuseHardSwish
from edgec.passes.fuse_layer_norm import FuseLayerNorm
from edgec.passes.fuse_qkv import FuseQkv
from edgec.passes.gemm_to_matmul import GemmToMatMul
from edgec.passes.infer_shapes import InferShapes
from edgec.passes.inline_control_flow import InlineControlFlow
from edgec.passes.inline_functions import InlineFunctions
from edgec.passes.lift_constants import LiftConstants
from edgec.passes.remove_expand import RemoveExpand
from edgec.passes.remove_identities import RemoveIdentities
from edgec.passes.simplify_arithmetic import SimplifyArithmetic

PIPELINE: tuple[type[GraphPass], ...] = (
    InlineFunctions,
    LiftConstants,
    ExpandContrib,
    ExpandFunctions,
    InferShapes,
    FoldConstants,
    InlineControlFlow,
    FoldShapes,
    RemoveIdentities,
    FoldBatchNorm,
    FoldPad,
    FuseGelu,
    FuseLayerNorm,
    GemmToMatMul,
    SimplifyArithmetic,
    FuseHardSwish,
    FoldAffine,
    ExpandConvTranspose,
    FuseAttention,  # before remove-expand: onnxruntime wants masks of all queries
    RemoveExpand,
    FuseQkv,
    FuseGateUp,
    ChainPools,
    ChannelsLast,
)

# Cleaning up is cheap, so it follows whatever changed the graph.
_ALWAYS = (FoldConstants, RemoveIdentities, InferShapes)


def simplify(
    model: ModelIR,
    *,
    skip: Collection[str] = (),
    observer: Callable[[str, ir.Model], None] | None = None,
) -> ModelIR:
    """The same model in fewer and larger operators; `model` itself is not changed.

    `skip` names passes to leave out; `observer(name, graph)` is called after each one. Large
    weights are not read. Raises `ModelError` when a pass's contract is broken.
    """
    graph = model.model.clone()
    _check("the input", graph)
    for pass_class in PIPELINE:
        if pass_class.name in skip:
            continue
        concerned = model.kind == "graph" or not pass_class.graphs_only
        modified = concerned and _run(pass_class, graph)
        if modified:
            for cleaning in _ALWAYS:
                if cleaning is not pass_class and cleaning.name not in skip:
                    _run(cleaning, graph)
        if observer is not None:
            observer(pass_class.name, graph)
    result = dataclasses.replace(model, model=graph)
    result.verify()
    return result


def _run(pass_class: type[GraphPass], model: ir.Model) -> bool:
    try:
        modified = pass_class()(model).modified
    except ir.passes.InvariantError as error:
        raise ModelError(f"pass `{pass_class.name}` broke its contract: {error}") from error
    _check(f"pass `{pass_class.name}`", model)
    return modified


def _check(after: str, model: ir.Model) -> None:
    try:
        verify(model)
    except ValueError as error:
        raise ModelError(f"the graph is malformed after {after}: {error}") from error
