"""Every error edgec raises on purpose.

    EdgecError                      exit code  1
    ├── UsageError                             2   wrong arguments or options
    ├── ModelError                             3   the model cannot be read or makes no sense
    │   ├── CorruptFileError                       truncated, swapped or damaged file
    │   └── UnsafePathError                        a path leaves the model's folder
    ├── UnsupportedError                       4   a valid model that edgec cannot compile (yet)
    ├── ProfileError                           5   unknown or invalid device profile
    ├── DoesNotFitError                        6   the model cannot fit the profile
    ├── BundleError                            7   a bundle fails verification or cannot be loaded
    ├── AccuracyError                          8   a result is outside its stated tolerance
    ├── MissingDependencyError                 9   an optional extra is not installed
    ├── OutputError                           10   the output cannot be written (disk full, exists)
    └── RunError                              11   a compiled model cannot run this request
        └── ContextFullError                       the prompt has more tokens than the context

Messages are one sentence without a final period, with backticks around literals; `hint` says
what to do next. `Interrupted` (Ctrl-C) exits with 130.
"""

from __future__ import annotations


class EdgecError(Exception):
    """Base class. `hint` is a second sentence that says what to do."""

    exit_code = 1
    code = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class UsageError(EdgecError):
    """`dims` names the dimensions of the model that need an upper bound."""

    exit_code = 2
    code = "usage"

    def __init__(self, message: str, *, hint: str | None = None, dims: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.dims = dims


class ModelError(EdgecError):
    exit_code = 3
    code = "model"


class CorruptFileError(ModelError):
    code = "corrupt-file"


class UnsafePathError(ModelError):
    code = "unsafe-path"


class UnsupportedError(EdgecError):
    """`inputs` names the inputs of the model whose values, given while compiling, would let it through."""

    exit_code = 4
    code = "unsupported"

    def __init__(self, message: str, *, hint: str | None = None, inputs: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.inputs = inputs


class ProfileError(EdgecError):
    exit_code = 5
    code = "profile"


class DoesNotFitError(EdgecError):
    exit_code = 6
    code = "does-not-fit"


class BundleError(EdgecError):
    """`finding` is one of the codes of docs/bundle-format.md, None when the bundle itself is sound."""

    exit_code = 7
    code = "bundle"

    def __init__(self, message: str, *, hint: str | None = None, finding: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.finding = finding


class AccuracyError(EdgecError):
    exit_code = 8
    code = "accuracy"


class MissingDependencyError(EdgecError):
    exit_code = 9
    code = "missing-dependency"


class OutputError(EdgecError):
    exit_code = 10
    code = "output"


class RunError(EdgecError):
    exit_code = 11
    code = "run"


class ContextFullError(RunError):
    code = "context-full"
