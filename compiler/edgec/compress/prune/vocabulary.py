"""A model with fewer tokens: rows of the embedding and of the lm_head are left out, the tokenizer is rewritten.

On a text whose tokens all stay, the logits of the tokens that stay are those of the whole model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir

from edgec.compress.prune.resize import initializer_elements, take
from edgec.compress.prune.token_choice import Vocabulary, covering_ids, most_useful_ids
from edgec.compress.prune.tokenizer import prune_tokenizer
from edgec.errors import UnsupportedError, UsageError
from edgec.ir.model import ModelIR, TokenizerAssets
from edgec.passes.base import static_shape

_LM_HEAD = ("lm_head.weight", "lm_head.bias")  # see `ir/model.py`


def kept_ids(model: ModelIR, keep: int | Path, text: str = "") -> list[int]:
    """The ids of a number of tokens, the most frequent ones of `text` first, or those that a text file uses.

    Raises `UsageError` for a number that makes no sense, for a file that is no text, and for a model without a
    tokenizer.
    """
    assets = _tokenizer(model)
    if isinstance(keep, int):
        return most_useful_ids(assets, keep, text)
    try:
        return covering_ids(assets, keep.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"`{keep}` cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise UsageError(f"`{keep}` is not a text in UTF-8") from None


def vocabulary_size(model: ModelIR) -> int | None:
    """Tokens of the model, None where they cannot be pruned."""
    if model.tokenizer is None:
        return None
    try:
        Vocabulary(model.tokenizer)
        table = _table(model, model.model.graph)
        if model.decoder is None:
            _check_outputs(model, model.model.graph, table)
    except UnsupportedError:
        return None
    return _rows(table)


def vocabulary_matrices(model: ModelIR) -> list[str]:
    """The initializers that have a row, or a column, per token."""
    graph = model.model.graph
    return [str(_table(model, graph).name), *(name for name in _LM_HEAD if name in graph.initializers)]


def prune_vocabulary(model: ModelIR, kept: Sequence[int], pruned: TokenizerAssets | None = None) -> ModelIR:
    """The token `kept[i]` (ascending) becomes token `i`; `model` is not changed, large weights are not read.

    `pruned` is the tokenizer that knows `kept`, where it was made before.

    Raises `UnsupportedError` for a graph that does more with ids than look them up in a table.
    """
    assets = _tokenizer(model)
    result = model.model.clone()
    graph = result.graph
    indices = np.asarray(kept, np.int64)
    table = _table(model, graph)
    before, elements = _rows(table), initializer_elements(graph)
    if model.decoder is None:
        _check_outputs(model, graph, table)
    take(table, 0, indices)
    heads = [graph.initializers[name] for name in _LM_HEAD if name in graph.initializers]
    for head in heads:
        take(head, -1, indices)
    if model.decoder is not None:
        _renumber_shapes([table, *heads], before, len(kept))
    return dataclasses.replace(
        model,
        model=result,
        facts=dataclasses.replace(
            model.facts, parameters=model.facts.parameters - elements + initializer_elements(graph)
        ),
        decoder=None if model.decoder is None else dataclasses.replace(model.decoder, vocabulary=len(kept)),
        tokenizer=pruned or prune_tokenizer(assets, kept),
    )


def _tokenizer(model: ModelIR) -> TokenizerAssets:
    if model.tokenizer is None:
        raise UsageError(f"`{model.facts.name}` has no tokenizer, so it has no vocabulary to prune")
    return model.tokenizer


def _table(model: ModelIR, graph: onnx_ir.Graph) -> onnx_ir.Value:
    """The initializer in whose rows `input_ids` are looked up."""
    ids = next((value for value in graph.inputs if value.name == "input_ids"), None)
    tables = [
        node.inputs[0]
        for node, slot in (ids.uses() if ids is not None else ())
        if node.op_type == "Gather" and slot == 1 and node.attributes.get_int("axis", 0) == 0
    ]
    found = [table for table in tables if table is not None and table.is_initializer() and len(table.shape or ()) == 2]
    if len(set(found)) != 1 or len(found) != len(tables):
        raise UnsupportedError(f"`{model.facts.name}` does not look `input_ids` up in one table of rows")
    return found[0]


def _rows(table: onnx_ir.Value) -> int:
    assert table.const_value is not None
    return static_shape(table.const_value)[0]


def _check_outputs(model: ModelIR, graph: onnx_ir.Graph, table: onnx_ir.Value) -> None:
    """A graph that also computes a number per token would have to be cut elsewhere too."""
    if len(table.uses()) != 1:
        raise UnsupportedError(f"`{model.facts.name}` uses its word table more than once, it cannot be pruned")
    for output in graph.outputs:
        if output.shape is not None and any(dim == _rows(table) for dim in output.shape.dims):
            raise UnsupportedError(f"`{model.facts.name}` has a value per token in its output `{output.name}`")


def _renumber_shapes(tables: Sequence[onnx_ir.Value], before: int, after: int) -> None:
    """The declared shapes of everything between the lm_head and the logits."""
    waiting = list(tables)
    seen: set[onnx_ir.Value] = set()
    while waiting:
        value = waiting.pop()
        for node, _ in value.uses():
            for output in node.outputs:
                if output in seen or output.shape is None or before not in output.shape.dims:
                    continue
                seen.add(output)
                output.shape = onnx_ir.Shape([after if dim == before else dim for dim in output.shape.dims])
                waiting.append(output)


__all__ = ["kept_ids", "prune_vocabulary", "vocabulary_matrices", "vocabulary_size"]
