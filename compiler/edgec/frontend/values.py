"""Fields of a configuration, absent ones filled in, read with their types checked."""

from __future__ import annotations

import math
from typing import Any

from edgec.errors import ModelError


class Values(dict[str, Any]):
    """Every method raises `ModelError` naming the field."""

    def integer(self, name: str) -> int:
        """A positive integer."""
        value = self.get(name)
        if type(value) is not int or not 0 < value < 1 << 31:
            raise ModelError(f"the config field `{name}` is {value!r}, expected a positive integer")
        return value

    def real(self, name: str) -> float:
        """A positive number."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ModelError(f"the config field `{name}` is {value!r}, expected a positive number")
        return float(value)

    def optional_real(self, name: str) -> float | None:
        """A positive number, or None."""
        return None if self.get(name) is None else self.real(name)


__all__ = ["Values"]
