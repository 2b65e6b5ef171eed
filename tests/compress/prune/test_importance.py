"""What a walk through the layers measures is what the whole graph shows; what was kept is not measured again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgec.cache import Cache
from edgec.compress.prune.depth import block_influence
from edgec.compress.prune.importance import measure
from tests.compress.prune import encoders
from tests.compress.prune.test_structure import run


def test_powers_are_mean_squares_of_inputs() -> None:
    model, samples = encoders.encoder(), encoders.samples()
    found = measure(model, samples)
    assert found.influence == tuple(block_influence(model, samples))
    inputs = np.concatenate([run(model, sample, "layers.1.active")[0][0] for sample in samples]).astype(np.float64)
    np.testing.assert_allclose(found.powers["layers.1.down.weight"], np.square(inputs).mean(axis=0), rtol=1e-5)


def test_what_was_kept_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples = encoders.encoder(), encoders.samples()
    first = measure(model, samples, store=Cache(tmp_path), source_key="a")
    (entry,) = (path for path in tmp_path.rglob("*") if path.is_file())

    def walked(*arguments: object) -> list[float]:
        raise AssertionError("measured again")

    with monkeypatch.context() as patched:
        patched.setattr("edgec.compress.prune.importance.block_influence", walked)
        again = measure(model, samples, store=Cache(tmp_path), source_key="a")
        assert again.influence == first.influence
        assert all(np.array_equal(again.powers[name], power) for name, power in first.powers.items())
        with pytest.raises(AssertionError):
            measure(model, samples[:2], store=Cache(tmp_path), source_key="a")
    cache = Cache(tmp_path)
    entry.write_bytes(entry.read_bytes()[:-1])
    assert measure(model, samples, store=cache, source_key="a").influence == first.influence
    assert cache.counts.damaged == 1
