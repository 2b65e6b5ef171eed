"""Low-rank adapters of a loaded model: kept beside it, and one of them at a time in its memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import numpy as np

from edgec.bundle.adapters import AdapterFile, Part, part_bytes, read_adapter_file
from edgec.bundle.manifest import AdapterSpace
from edgec.errors import BundleError, UnsupportedError, UsageError
from edgec.run.engine import Engine


class Adapters:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loaded: dict[str, AdapterFile] = {}
        self.active: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._loaded)

    def load(self, file: Path, name: str | None) -> str:
        """Read and check a file; it is used from `use` on. Returns its name."""
        space = self._space()
        try:
            adapter = read_adapter_file(file.read_bytes(), space)
        except OSError as error:
            raise BundleError(f"`{file}` cannot be read ({error.strerror})", finding="file-missing") from error
        name = name or adapter.name
        self._loaded[name] = adapter
        if self.active == name:
            self._place(adapter)
        return name

    def use(self, name: str | None) -> None:
        """Put the adapter of that name into the model, or none."""
        space = self._space() if name is not None else self._engine.manifest.adapters
        if name is not None and name not in self._loaded:
            known = ", ".join(f"`{other}`" for other in self._loaded) or "none"
            raise UsageError(f"no adapter `{name}` is loaded", hint=f"loaded are {known}")
        if space is not None:
            if name is None:
                self._switch(space, 0)
            else:
                self._place(self._loaded[name])
        self.active = name

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """The model without its adapter."""
        active = self.active
        self.use(None)
        try:
            yield
        finally:
            if not self._engine.closed:
                self.use(active)

    def _place(self, adapter: AdapterFile) -> None:
        space = self._space()
        self._switch(space, 0)
        memory = self._engine.memory
        for linear in space.linears:
            for part in get_args(Part):
                start = getattr(linear, part)
                content = adapter.content(linear.name, part)
                size = part_bytes(linear, part, adapter.rank)
                memory[start : start + size] = 0 if content is None else np.frombuffer(content, np.uint8)
        self._switch(space, adapter.rank)

    def _switch(self, space: AdapterSpace, rank: int) -> None:
        self._engine.memory[space.switch : space.switch + 4].view(np.int32)[0] = rank

    def _space(self) -> AdapterSpace:
        space = self._engine.manifest.adapters
        if space is None:
            raise UnsupportedError(
                f"`{self._engine.manifest.model.name}` has no room for adapters",
                hint="compile the model with `--adapters RANK`",
            )
        return space


__all__ = ["Adapters"]
