"""The only module that knows where edgec's data files are, in a wheel or in a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parents[1]


def _find(name: str, checkout: Path) -> Path:
    packaged = _PACKAGE / "_resources" / name
    return packaged if packaged.is_dir() else checkout


def profiles_directory() -> Path:
    """Folder with the `*.toml` device profiles."""
    return _find("device_profiles", _CHECKOUT / "device_profiles")


def runtime_directory() -> Path:
    """Folder with the built JavaScript runtime (`edgec.js`, `worker.js`)."""
    return _find("runtime", _CHECKOUT / "runtime_wasm" / "dist")


def demo_directory() -> Path:
    """Folder with the demo page that `edgec serve` shows."""
    return _find("web_demo", _CHECKOUT / "web_demo")


def runtime_tools_directory() -> Path:
    """Folder with the scripts that run bundles in Node and in browsers; only a checkout has it."""
    return _CHECKOUT / "runtime_wasm" / "tools"
