from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgec import bundle
from edgec.errors import BundleError
from edgec.run import load
from tests.attacks.damaged_bundles import CASES, Case, write_all, write_case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_verdict(case: Case, tmp_path: Path) -> None:
    root = write_case(case, tmp_path)
    findings = bundle.verify(root)
    codes = [finding.code for finding in findings]
    assert codes[:1] == ([case.code] if case.code else [])
    assert all(finding.message and not finding.message.endswith(".") for finding in findings)
    if case.code is None:
        bundle.check(root)
        load(root, threads=1).close()
    else:
        with pytest.raises(BundleError) as caught:
            bundle.check(root)
        assert caught.value.finding == case.code


@pytest.mark.parametrize("case", [case for case in CASES if case.code], ids=lambda case: case.name)
def test_loading_refuses_too(case: Case, tmp_path: Path) -> None:
    """What loading does not read (another variant, the report) it need not check."""
    root = write_case(case, tmp_path)
    with pytest.raises(BundleError) as caught:
        load(root, variant="simd128").close()
    assert caught.value.finding == case.code


def test_the_generator_writes_every_case(tmp_path: Path) -> None:
    write_all(tmp_path)
    expected = json.loads((tmp_path / "expected.json").read_text())
    assert len({entry["case"] for entry in expected}) == len(expected) == len(CASES)
    assert all((tmp_path / f"{entry['case']}.edgec").is_dir() for entry in expected)
