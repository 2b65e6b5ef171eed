"""Golden outputs of graphs; those of decoders are among tests/attacks/."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from edgec.bundle.golden import GraphGolden
from edgec.bundle.parse import parse_manifest
from edgec.errors import BundleError
from tests.run.fake_module import write_fake_bundle


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("golden") / "graph.edgec"
    write_fake_bundle(folder, kind="graph")
    document = json.loads((folder / "manifest.json").read_bytes())
    assert isinstance(document, dict)
    return document


def test_they_survive_the_manifest(manifest: dict[str, Any]) -> None:
    golden = parse_manifest(json.dumps(manifest).encode()).golden
    assert isinstance(golden, GraphGolden)
    assert golden.dims == {"batch": 16}
    assert [len(output.values) for output in golden.outputs] == [8, 0]  # float32, int32


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda golden: golden["dims"].clear(), "`golden.dims` lacks `batch`"),
        (lambda golden: golden["dims"].update(batch=17), "`golden.dims.batch` is 17, allowed are 1 to 16"),
        (lambda golden: golden["dims"].update(width=1), "`golden.dims` has an unknown field `width`"),
        (lambda golden: golden["outputs"].pop(), "`golden.outputs` are 1, the graph has 2"),
        (lambda golden: golden["outputs"][0].update(sha256="0"), "`golden.outputs[0].sha256` is"),
        (lambda golden: golden["outputs"][0].update(values=[0] * 17), "`golden.outputs[0].values` are 17"),
        (lambda golden: golden["outputs"][0].update(values=[True]), "is not a finite number"),
        (lambda golden: golden.update(prompt=[1]), "`golden` has an unknown field `prompt`"),
    ],
)
def test_what_contradicts_the_manifest_is_refused(
    manifest: dict[str, Any], change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    damaged = json.loads(json.dumps(manifest))
    change(damaged["golden"])
    with pytest.raises(BundleError, match=problem.replace("[", r"\[")) as caught:
        parse_manifest(json.dumps(damaged).encode())
    assert caught.value.finding == "manifest-invalid"
