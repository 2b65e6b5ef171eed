"""Early exits: small heads inside a decoder learn what its last layer says, and when they know it.

The head of a layer is the "tuned lens" (Belrose et al. 2023, "Eliciting Latent Predictions from Transformers with the
Tuned Lens") with a low-rank change of basis: a norm of its own, `z + up @ (down @ z)`, and the model's own lm_head. It
is trained by distillation while all else stands still. A token leaves where the head's largest probability reaches a
threshold (Schuster et al. 2022, "Confident Adaptive Language Modeling"), the lowest one at which the tokens that leave
agree with the whole model as often as asked for; both are then measured on tokens that neither has seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir
import torch

from edgec.compress import Sample, dequantized_model
from edgec.compress.dequantize import dequantize
from edgec.compress.matrix import pack_matrix
from edgec.compress.prune.blocks import blocks
from edgec.compress.quantize import QUANTIZERS
from edgec.errors import UnsupportedError, UsageError
from edgec.heal.adam import Adam
from edgec.heal.batches import Batch, Batches
from edgec.heal.graph import TorchGraph
from edgec.heal.ops import OPERATORS, Tensor
from edgec.heal.training import Progress, one_thread
from edgec.ir.compressed import CompressedModel
from edgec.ir.exits import ExitHead, Matrix
from edgec.ir.model import ModelIR

SEED = 20221017
RANK = 32
STEPS = 200
BITS = 8  # of a head's matrices where the model's have codes
_RATES = {"norm": 3e-3, "bias": 3e-3, "down": 1e-3, "up": 1e-3}
_LEAST_LEAVING = 16  # tokens that a threshold is judged by
_JUDGED = 4  # the last part of the samples, one of so many: half for thresholds, half to measure


def spread(layers: int) -> tuple[int, ...]:
    """Where to leave if nobody says: after half and three quarters of the layers."""
    return tuple(sorted({max(1, layers // 2), max(1, 3 * layers // 4)} - {layers}))


def train_exits(
    compressed: CompressedModel,
    samples: Sequence[Sample],
    layers: Sequence[int],
    *,
    agreement: float,
    steps: int = STEPS,
    progress: Progress | None = None,
) -> tuple[ExitHead, ...]:
    """A head after each of `layers` (1: after the first), trained on `samples` with the weights as they are stored.

    Raises `UsageError` for layers that there are not and for too little text, `UnsupportedError` for models that are no
    decoders or cannot be trained through.
    """
    model = compressed.model
    if model.decoder is None:
        raise UnsupportedError(f"early exits are for decoder language models, `{model.facts.name}` is none")
    outside = [layer for layer in layers if not 1 <= layer < model.decoder.layers]
    if outside or not layers:
        raise UsageError(
            f"`{model.facts.name}` has {model.decoder.layers} layers, no token can leave after "
            f"{', '.join(map(str, outside)) or 'none of them'}",
            hint=f"choose 1 to {model.decoder.layers - 1}",
        )
    if len(samples) < 2 * _JUDGED:
        raise UsageError(f"{len(samples)} texts are too few to train and to judge exits by", hint="give more text")
    with one_thread():
        return _Training(compressed, samples, sorted(set(layers))).run(steps, agreement, progress)


class _Head:
    def __init__(self, norm: onnx_ir.Node, parameters: Mapping[str, Tensor], hidden: int, seed: int) -> None:
        self._node = norm
        names = [str(value.name) for value in norm.inputs[1:] if value is not None]
        generator = torch.Generator().manual_seed(seed)
        self.tensors: dict[str, Tensor] = {
            "norm": parameters[names[0]].clone(),
            "down": torch.randn(min(RANK, hidden), hidden, generator=generator) / hidden**0.5,
            "up": torch.zeros(hidden, min(RANK, hidden)),
        }
        if len(names) > 1:
            self.tensors["bias"] = parameters[names[1]].clone()
        for tensor in self.tensors.values():
            tensor.requires_grad_()
        self.adam = Adam({name: (tensor, _RATES[name]) for name, tensor in self.tensors.items()})

    def __call__(self, stream: Tensor) -> Tensor:
        t = self.tensors
        z = OPERATORS[self._node.op_type](self._node, [stream, t["norm"], t.get("bias")])
        return z + (z @ t["down"].T) @ t["up"].T

    def store(self, name: str, *, floats: bool) -> dict[str, Matrix]:
        """Its matrices as they are stored; the head then computes with those."""
        stored: dict[str, Matrix] = {}
        with torch.no_grad():
            for part in ("down", "up"):
                matrix = np.ascontiguousarray(self.tensors[part].numpy(), np.float32)
                if floats:
                    stored[part] = matrix
                    continue
                packed = pack_matrix(f"{name}.{part}.weight", matrix, QUANTIZERS["rtn"](BITS, None))
                stored[part] = packed
                self.tensors[part].copy_(torch.from_numpy(dequantize(packed)))
        return stored


class _Training:
    def __init__(self, compressed: CompressedModel, samples: Sequence[Sample], layers: Sequence[int]) -> None:
        model = dequantized_model(compressed)
        assert model.decoder is not None
        self.floats = compressed.plan.activation_bits == 32
        found = {block.layer: block.end for block in blocks(model)}
        if not set(layers) <= {layer + 1 for layer in found if layer is not None}:
            raise UnsupportedError(f"the layers of `{model.facts.name}` are not apart from each other")
        ends = {layer: str(found[layer - 1].name) for layer in layers}
        norm = _final_norm(model, found[model.decoder.layers - 1])
        self.ends, self.normed = ends, str(norm.outputs[0].name)
        self.whole = TorchGraph(model, [*ends.values(), "logits"])
        self.tail = TorchGraph(model, ["logits"], [self.normed])
        hidden = model.decoder.hidden
        self.heads = {layer: _Head(norm, self.whole.parameters, hidden, SEED + layer) for layer in layers}
        trained = len(samples) - max(2, len(samples) // _JUDGED)
        self.batches = Batches(model, samples[:trained], None, SEED)
        half = (len(samples) - trained) // 2
        self.judged = [samples[trained : trained + half], samples[trained + half :]]
        self.model = model

    def run(self, steps: int, agreement: float, progress: Progress | None) -> tuple[ExitHead, ...]:
        for step in range(steps):
            if progress is not None:
                progress(f"step {step + 1:,}", step, steps)
            self._step(step, steps)
        stored = {layer: head.store(f"exits.{layer}", floats=self.floats) for layer, head in self.heads.items()}
        tuned, measured = (self._judge(samples) for samples in self.judged)
        heads = []
        for layer, head in self.heads.items():
            threshold = _threshold(*tuned[layer], agreement)
            sure, right = measured[layer]
            leaving = sure >= threshold if threshold is not None else np.zeros(len(sure), bool)
            norm, bias = head.tensors["norm"].detach().numpy(), head.tensors.get("bias")
            heads.append(
                ExitHead(
                    layer=layer,
                    norm=norm,
                    norm_bias=None if bias is None else bias.detach().numpy(),
                    **stored[layer],
                    threshold=threshold,
                    agreement=float(right[leaving].mean()) if leaving.any() else 0.0,
                    share=float(leaving.mean()),
                    tokens=len(sure),
                )
            )
        if progress is not None:
            progress("", steps, steps)
        return tuple(heads)

    def _values(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """(values of the whole model, the tokens that count)."""
        with torch.no_grad():
            values = self.whole(self.whole.parameters, batch.student)
        return values, batch.weights > 0

    def _logits(self, layer: int, stream: Tensor) -> Tensor:
        return self.tail(self.tail.parameters, {self.normed: self.heads[layer](stream)})["logits"]

    def _step(self, step: int, steps: int) -> None:
        values, counted = self._values(self.batches[step])
        expected = torch.log_softmax(values["logits"][counted], -1)
        # Warm, then a straight line down to a tenth.
        share = min(1.0, (step + 1) / max(1, steps // 20)) * (1 - 0.9 * step / steps)
        for layer, head in self.heads.items():
            found = torch.log_softmax(self._logits(layer, values[self.ends[layer]][counted][None])[0], -1)
            loss = (expected.exp() * (expected - found)).sum(-1).mean()
            loss.backward()
            head.adam.step(step + 1, share)

    def _judge(self, samples: Sequence[Sample]) -> dict[int, tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """By layer: the head's largest probability of each token, and whether it is of the model's token."""
        found: dict[int, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in self.heads}
        with torch.no_grad():
            for batch in _once(self.model, samples):
                values, counted = self._values(batch)
                wanted = values["logits"][counted].argmax(-1)
                for layer in self.heads:
                    logits = self._logits(layer, values[self.ends[layer]][counted][None])[0]
                    sure, token = torch.softmax(logits, -1).max(-1)
                    found[layer].append((sure, token == wanted))
        return {
            layer: (torch.cat([s for s, _ in parts]).numpy(), torch.cat([r for _, r in parts]).numpy())
            for layer, parts in found.items()
        }


def _once(model: ModelIR, samples: Sequence[Sample]) -> Iterator[Batch]:
    """Each sample alone."""
    for sample in samples:
        yield Batches(model, [sample], None, SEED)[0]


def _threshold(sure: npt.NDArray[Any], right: npt.NDArray[Any], agreement: float) -> float | None:
    """The lowest at which those that are as sure agree as often as asked for; None where there is none."""
    order = np.argsort(-sure, kind="stable")
    share = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    # Tokens that are equally sure leave together.
    whole = np.append(np.diff(sure[order]) != 0, True)
    enough = np.flatnonzero((share >= agreement) & whole & (np.arange(1, len(order) + 1) >= _LEAST_LEAVING))
    return float(sure[order[enough[-1]]]) if enough.size else None


def _final_norm(model: ModelIR, stream: onnx_ir.Value) -> onnx_ir.Node:
    for node in stream.consumers():
        if node.op_type in ("RMSNormalization", "LayerNormalization"):
            return node
    raise UnsupportedError(f"`{model.facts.name}` has no norm after its last layer")


__all__ = ["STEPS", "spread", "train_exits"]
