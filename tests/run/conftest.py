from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgec import bundle
from edgec.run import Model, load
from tests.run.fake_module import write_fake_bundle


@pytest.fixture(scope="session")
def decoder_bundle(tmp_path_factory: pytest.TempPathFactory) -> bundle.Bundle:
    return write_fake_bundle(tmp_path_factory.mktemp("fake") / "decoder.edgec")


@pytest.fixture(scope="session")
def graph_bundle(tmp_path_factory: pytest.TempPathFactory) -> bundle.Bundle:
    return write_fake_bundle(tmp_path_factory.mktemp("fake") / "graph.edgec", kind="graph")


@pytest.fixture
def model(decoder_bundle: bundle.Bundle) -> Iterator[Model]:
    with load(decoder_bundle, threads=1) as loaded:
        yield loaded


@pytest.fixture
def graph(graph_bundle: bundle.Bundle) -> Iterator[Model]:
    with load(graph_bundle) as loaded:
        yield loaded
