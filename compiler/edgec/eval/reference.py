"""The float model in onnxruntime: what compiled models are compared with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir
import onnxruntime

from edgec.bundle.manifest import ITEM_BYTES, Slot
from edgec.errors import ModelError, UsageError
from edgec.ir import ModelIR

Logits = npt.NDArray[np.float32]
_CHUNK = 64  # ids per step: keeps [ids, vocabulary] logits small


class ReferenceSession:
    """A `ModelIR`'s graph in onnxruntime, on the CPU in float32.

    The graph is written with its weights beside it into a temporary folder, so that models of more
    than 2 GB work and weights are in memory once; the folder goes with `close()`.
    """

    def __init__(self, model: ModelIR, *, threads: int | None = None) -> None:
        self.model = model
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        self._folder = tempfile.TemporaryDirectory(prefix="edgec-reference-")
        path = Path(self._folder.name) / "model.onnx"
        try:
            onnx_ir.save(model.model, path, external_data="weights.bin")
            self.session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except BaseException as error:
            self._folder.cleanup()
            if isinstance(error, Exception) and type(error).__module__.startswith("onnxruntime"):
                reason = str(error).strip().splitlines()[0]
                raise ModelError(f"onnxruntime cannot run `{model.facts.name}` ({reason})") from error
            raise

    def close(self) -> None:
        """Free the model. May be called twice."""
        self.session = None
        self._folder.cleanup()

    def __enter__(self) -> ReferenceSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ReferenceDecoder(ReferenceSession):
    """A decoder language model with its KV cache, as docstring of `edgec.ir.model` lays it out."""

    def __init__(self, model: ModelIR, *, threads: int | None = None) -> None:
        if model.decoder is None:
            raise UsageError(f"`{model.facts.name}` is not a language model")
        super().__init__(model, threads=threads)
        self._facts = model.decoder
        names = [entry.name for entry in self.session.get_outputs()]
        self._cache_names = [name for name in names if name != "logits"]
        self.reset()

    def reset(self) -> None:
        """Start with an empty cache."""
        empty = np.zeros((1, self._facts.kv_heads, 0, self._facts.head_dim), np.float32)
        self._cache = {name.replace("present", "past_key_values", 1): empty for name in self._cache_names}
        self.position = 0

    def step(self, ids: Sequence[int]) -> Logits:
        """Append `ids`; the logits after each of them, float32 [ids, vocabulary]."""
        inputs = {
            "input_ids": np.array([ids], np.int64),
            "position_ids": np.arange(self.position, self.position + len(ids), dtype=np.int64)[None],
            **self._cache,
        }
        logits, *present = self.session.run(["logits", *self._cache_names], inputs)
        self._cache = dict(zip(self._cache, present, strict=True))
        self.position += len(ids)
        result: Logits = logits[0]
        return result

    def logits(self, ids: Sequence[int]) -> Iterator[Logits]:
        """The logits after each of `ids`, float32 [vocabulary] one at a time, from an empty cache."""
        self.reset()
        for start in range(0, len(ids), _CHUNK):
            yield from self.step(ids[start : start + _CHUNK])

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """Up to `count` ids after `prompt`, each the most likely; stops at an end-of-sequence id."""
        self.reset()
        stop = self.model.tokenizer.eos_token_ids if self.model.tokenizer else ()
        answer: list[int] = []
        ids = list(prompt)
        while len(answer) < count:
            token = int(np.argmax(self.step(ids)[-1]))
            if token in stop:
                break
            answer.append(token)
            ids = [token]
        return answer


class ReferenceGraph(ReferenceSession):
    """Any other graph; runs the same tasks as a compiled one (`edgec.run.tasks`)."""

    def __init__(self, model: ModelIR, *, threads: int | None = None) -> None:
        super().__init__(model, threads=threads)
        self.inputs: Sequence[Slot] = [_slot(value) for value in model.model.graph.inputs]
        self.dims: Mapping[str, int] = {}

    def run(self, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, npt.NDArray[Any]]:
        """Arrays by input name in, arrays by output name out."""
        arrays = {slot.name: np.asarray(inputs[slot.name], slot.dtype) for slot in self.inputs}
        names = [entry.name for entry in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, arrays), strict=True))


def _slot(value: onnx_ir.Value) -> Slot:
    dtype = value.dtype.numpy().name if value.dtype is not None else ""
    if value.shape is None or value.name is None or dtype not in ITEM_BYTES:
        raise ModelError(f"input `{value.name}` has no known type and shape")
    shape = tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape.dims)
    return Slot(value.name, dtype, shape, 0, 0)


def open_reference(model: ModelIR, *, threads: int | None = None) -> ReferenceDecoder | ReferenceGraph:
    """The float model, by its kind."""
    kind = ReferenceDecoder if model.kind == "decoder" else ReferenceGraph
    return kind(model, threads=threads)
