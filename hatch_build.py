"""Build hook: a wheel carries the device profiles, the built runtime and the demo page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

RESOURCES = {
    "device_profiles": "device_profiles",
    "runtime_wasm/dist": "runtime",
    "web_demo": "web_demo",
}


class ResourcesHook(BuildHookInterface[Any]):
    """Only wheels copy: an editable install reads the folders of the checkout (see `edgec/resources.py`)."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        for source, name in RESOURCES.items():
            folder = Path(self.root) / source
            if not folder.is_dir():
                raise FileNotFoundError(f"{source} is missing; `make runtime` builds what a wheel carries")
            build_data["force_include"][str(folder)] = f"edgec/_resources/{name}"
