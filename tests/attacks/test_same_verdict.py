"""Python and JavaScript say the same about every damaged bundle."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from edgec import resources
from tests.attacks.damaged_bundles import write_all

# A page instead of a manifest is a server's error, and JavaScript says so.
OTHER_WORD_IN_JAVASCRIPT = {"manifest-html": "http"}


@pytest.mark.node
def test_javascript_gives_the_same_verdicts(tmp_path: Path) -> None:
    expected = {entry["case"]: entry["code"] for entry in write_all(tmp_path)} | OTHER_WORD_IN_JAVASCRIPT
    script = Path(__file__).with_name("verify_all.mjs")
    command = ["node", str(script), str(resources.runtime_directory() / "edgec.js"), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    verdicts = json.loads(result.stdout)
    assert {name: code for name, code in verdicts.items() if code != expected[name]} == {}
    assert verdicts.keys() == expected.keys()
