"""edgec: language and vision models, compiled for the user's own device.

    bundle = edgec.compile("./SmolLM2-135M-Instruct", "phone-8gb", "smollm2.edgec")
    with edgec.load("smollm2.edgec") as model:
        print(model.chat([{"role": "user", "content": "What is the capital of France?"}]))

Errors are the classes of `edgec.errors`. What takes long to import is imported on use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgec.errors import EdgecError

if TYPE_CHECKING:
    from edgec.pipeline import CompileOptions, compile_model
    from edgec.run import Model, load

    compile = compile_model

__version__ = "0.1.0"

__all__ = ["CompileOptions", "EdgecError", "Model", "__version__", "compile", "load"]

_LAZY = {
    "CompileOptions": ("edgec.pipeline", "CompileOptions"),
    "Model": ("edgec.run", "Model"),
    "compile": ("edgec.pipeline", "compile_model"),
    "load": ("edgec.run", "load"),
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module `edgec` has no attribute `{name}`")
    import importlib

    module, attribute = _LAZY[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
