"""What every block, feature, head and column brings, measured once on a few samples, layer by layer.

From the mean squares of what each matrix is multiplied with follow the scores of features and heads
(`edgec.compress.prune.width`) and the importance of columns when the matrix is rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgec.compress.calibration.samples import Sample
from edgec.compress.calibration.sites import schedule
from edgec.compress.calibration.walk import Walk
from edgec.compress.prune.blocks import blocks
from edgec.compress.prune.depth import block_influence
from edgec.ir.model import ModelIR
from edgec.ir.store import Arrays, Store, key_of
from edgec.ir.weight_use import weight_uses

_BLOCKS, _POWER = "influence", "power/"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Importance:
    influence: tuple[float, ...]  # of each block, see `edgec.compress.prune.depth`
    powers: Mapping[str, npt.NDArray[np.float64]]  # [columns], mean squares of the inputs of each matrix


def measure(
    model: ModelIR,
    samples: Sequence[Sample],
    *,
    store: Store | None = None,
    source_key: str = "",
    progress: Progress | None = None,
) -> Importance:
    """Of the float model on `samples`; what `store` has is not measured again, `source_key` tells models apart.

    Memory holds the float weights and what lies between two layers for every sample.
    """
    uses = weight_uses(model.model)
    names = [name for name, use in uses.items() if use.uses_per_run]
    plan = schedule(model.model.graph, {name: uses[name] for name in names}, names)
    key = key_of("importance", source_key, list(samples))
    kept = store.load(key) if store is not None else None
    if store is not None and kept is not None:
        found = _decoded(kept, {name: uses[name].columns for name in plan.sites}, len(blocks(model)))
        if found is not None:
            return found
        store.refuse(key)
    total = len(plan.waves) + 1
    if progress is not None:
        progress("influence of the blocks", 0, total)
    influence = block_influence(model, samples)
    powers: dict[str, npt.NDArray[np.float64]] = {}
    for number, (wave, statistics) in enumerate(Walk(model, plan, samples), 1):
        if progress is not None:
            progress(f"inputs of `{wave.weights[0]}`", number, total)
        powers.update({name: statistics[name].power for name in wave.weights})
    found = Importance(tuple(influence), powers)
    if store is not None:
        arrays = {_POWER + name: power for name, power in powers.items()}
        store.save(key, {_BLOCKS: np.asarray(influence, np.float64), **arrays})
    return found


def _decoded(kept: Arrays, columns: Mapping[str, int], count: int) -> Importance | None:
    shapes = {_BLOCKS: (count,)} | {_POWER + name: (size,) for name, size in columns.items()}
    if {name: array.shape for name, array in kept.items()} != shapes:
        return None
    if not all(np.isfinite(array).all() for array in kept.values()):
        return None
    return Importance(tuple(kept[_BLOCKS].tolist()), {name: kept[_POWER + name] for name in columns})


__all__ = ["Importance", "measure"]
