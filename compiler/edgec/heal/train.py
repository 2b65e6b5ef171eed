"""Healing: the slimmed model learns from the original, with its weights rounded as they will be stored.

Steps are deterministic: one thread, a seed, and batches that depend on nothing but the step's number. Matrices are
multiplied in bfloat16 where the processor does that faster; what is reported is measured in float32. A
time budget is turned into a number of steps when the first ones have been timed; that number is
reported, and gives the same weights when asked for (`steps`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir
import torch

from edgec.compress import Sample
from edgec.compress.prune.blocks import blocks
from edgec.compress.prune.vocabulary import prune_vocabulary
from edgec.compress.quantize import QUANTIZERS, QuantizedRows
from edgec.errors import UnsupportedError
from edgec.heal import checkpoint
from edgec.heal.adam import Adam
from edgec.heal.batches import Batches
from edgec.heal.graph import TorchGraph
from edgec.heal.loss import Distance, pooling_of
from edgec.heal.ops import Tensor
from edgec.heal.quantized import FloatWeight, QuantizedWeight
from edgec.heal.training import Distillation, Progress, Steps, fingerprint, one_thread
from edgec.ir.model import ModelIR
from edgec.ir.plan import Plan
from edgec.ir.weight_use import mark_grid, weight_uses

SEED = 20200709
_TIMED = 3  # steps by which a time budget becomes a number of steps
_RATES = {"latent": 3e-4, "log_steps": 1e-3, "centers": 5e-3, "float": 3e-4}  # Adam's, at its highest


@dataclass(frozen=True)
class Healed:
    """`model` has the trained floats; `rows` are the codes of its quantized matrices."""

    model: ModelIR
    rows: Mapping[str, QuantizedRows]
    steps: int
    before: float  # the loss of what is reported (`edgec.heal.loss`), quantized but not trained
    after: float


def heal(
    teacher: ModelIR,
    student: ModelIR,
    plan: Plan,
    samples: Sequence[Sample],
    kept: Sequence[int] | None = None,
    *,
    originals: Sequence[Sample] | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Healed:
    """Train `student`, quantized as `plan` says, on `samples` (in its own ids, `kept` has the teacher's).

    `originals` are the same texts in the teacher's own tokens: embeddings of texts are compared with what the teacher
    makes of those. Exactly one of `steps` and `minutes` is given. With a `folder`, training is saved there every minute
    and goes on from there; time counts from the very beginning. Raises `UnsupportedError` for graphs and matrices that
    cannot be trained and `UsageError` for a checkpoint of something else.
    """
    if student.parts:
        raise UnsupportedError(f"`{student.facts.name}` is a model of several parts, which cannot be healed yet")
    with one_thread():
        course = _course(teacher, student, plan, samples, kept, originals)
        return train(course, steps=steps, minutes=minutes, folder=folder, progress=progress)


@dataclass(frozen=True)
class Course:
    """What is trained, and on what."""

    model: ModelIR  # whose initializers the trained ones replace
    distillation: Distillation
    quantized: Mapping[str, QuantizedWeight]
    floats: Mapping[str, FloatWeight]
    fingerprint: str
    rows: Mapping[str, QuantizedRows] = field(default_factory=dict)  # codes of matrices that are not trained


def train(
    course: Course, *, steps: int | None, minutes: float | None, folder: Path | None, progress: Progress | None
) -> Healed:
    """See `heal`; called with `one_thread`."""
    return _Training(course).run(steps, minutes, folder, progress)


def _course(
    teacher: ModelIR,
    student: ModelIR,
    plan: Plan,
    samples: Sequence[Sample],
    kept: Sequence[int] | None,
    originals: Sequence[Sample] | None,
) -> Course:
    shared = {str(block.end.name) for block in blocks(teacher)}
    hints = [str(block.end.name) for block in blocks(student) if str(block.end.name) in shared]
    digest = fingerprint(teacher, student, plan, [*samples, *(originals or ())])
    if kept is None or pooling_of(student) is None:
        originals = None  # tokens are compared one by one, so both read the student's
    if student.decoder is not None and kept is not None:
        teacher, kept = prune_vocabulary(teacher, kept, student.tokenizer), None  # no others are compared
    distance = Distance(student, hints, same_tokens=originals is None)
    graph = TorchGraph(student, distance.wanted)
    quantized = _quantized(student, plan, graph.parameters)
    floats = {
        name: FloatWeight(tensor.requires_grad_(), _RATES["float"])
        for name, tensor in graph.parameters.items()
        if name not in quantized
    }
    graph.parameters.clear()  # those that are trained stand for them
    return Course(
        model=student,
        distillation=Distillation(
            TorchGraph(teacher, distance.wanted), graph, distance, Batches(student, samples, kept, SEED, originals)
        ),
        quantized=quantized,
        floats=floats,
        fingerprint=digest,
    )


class _Training:
    def __init__(self, course: Course) -> None:
        self.model, self.distillation = course.model, course.distillation
        self.quantized, self.floats = course.quantized, course.floats
        self.course = course
        self.trained = dict(self._trained())
        self.adam = Adam(self.trained)

    def _trained(self) -> Iterator[tuple[str, tuple[Tensor, float]]]:
        """(tensor, highest rate) by name."""
        for name, weight in self.quantized.items():
            for part in ("latent", "log_steps", "centers"):
                yield f"{name}/{part}", (getattr(weight, part), _RATES[part])
        for name, floats in self.floats.items():
            yield f"{name}/float", (floats.latent, floats.rate)

    # The loop

    def run(self, steps: int | None, minutes: float | None, folder: Path | None, progress: Progress | None) -> Healed:
        found = checkpoint.load(folder, self.course.fingerprint) if folder is not None else None
        if found is not None:
            state, arrays = found
            loop = Steps.resumed(state, steps, folder)
            self.adam.restore(arrays)
        else:
            before = self.distillation.measured(self._weights)
            if steps is None:
                assert minutes is not None
                steps = self._affordable(60 * minutes)
            loop = Steps(steps, {"before": before})
        loop.run(self._gradients, self.adam, fingerprint=self.course.fingerprint, folder=folder, progress=progress)
        after = self.distillation.measured(self._weights)
        return Healed(self._result(), self._rows(), loop.done, loop.kept["before"], after)

    def _affordable(self, seconds: float) -> int:
        """Steps in so many seconds, from steps that change nothing."""
        began = time.monotonic()
        for number in range(_TIMED):
            self._gradients(number)
            for tensor, _ in self.trained.values():
                tensor.grad = None
        # Adam passes over all weights take about a tenth of a step.
        return max(1, int(seconds * _TIMED / (1.1 * (time.monotonic() - began))))

    def _gradients(self, number: int) -> None:
        self.distillation.gradients(self._weights, number)

    def _weights(self) -> dict[str, Tensor]:
        trained: Mapping[str, FloatWeight | QuantizedWeight] = {**self.floats, **self.quantized}
        arrays = {name: weight.array() for name, weight in trained.items()}
        return {**self.distillation.student.parameters, **arrays}

    # Results

    def _rows(self) -> dict[str, QuantizedRows]:
        return {**self.course.rows, **{name: weight.rows() for name, weight in self.quantized.items()}}

    def _result(self) -> ModelIR:
        copy = self.model.model.clone()
        with torch.no_grad():
            for name, tensor in self._weights().items():
                value = copy.graph.initializers[name]
                assert value.const_value is not None
                array = np.ascontiguousarray(tensor.detach().numpy()).astype(value.const_value.dtype.numpy())
                value.const_value = onnx_ir.Tensor(array.copy(), name=name)
                mark_grid(value, None)  # trained away from the codes that it had
        return dataclasses.replace(self.model, model=copy)


def _quantized(model: ModelIR, plan: Plan, parameters: Mapping[str, Tensor]) -> dict[str, QuantizedWeight]:
    uses = weight_uses(model.model)
    found = {}
    for tensor in plan.tensors:
        if not tensor.quantized or tensor.name not in parameters:
            continue
        use = uses[tensor.name]
        if use.layout not in ("kn", "nk"):
            raise UnsupportedError(
                f"`{use.name}` is neither a linear layer nor a table, it cannot be healed",
                hint="convolutions are healed in classifiers that give logits, with a folder of pictures"
                if use.layout == "conv"
                else None,
            )
        matrix = np.ascontiguousarray(use.to_matrix(parameters[tensor.name].detach().numpy()))
        quantizer = QUANTIZERS["rtn"](
            tensor.bits, None, compact=tensor.compact, group_size=tensor.group_size, ternary=tensor.ternary
        )
        found[tensor.name] = QuantizedWeight.start(use, matrix, quantizer.quantize(matrix))
    return found


__all__ = ["Course", "Healed", "heal", "train"]
