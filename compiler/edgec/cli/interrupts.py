"""Ctrl-C and SIGTERM. The signal is remembered, because an exception alone can get lost.

Code that is called back from C++ (TVM's passes) may see its KeyboardInterrupt turned into another
error, or dropped; `received()` and `check()` still know.
"""

from __future__ import annotations

import signal
from types import FrameType

_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
_received: signal.Signals | None = None


class Terminated(BaseException):
    """SIGTERM, as an exception so that temporary files are removed on the way out."""


def install() -> None:
    """Take over both signals, for the rest of the process."""
    for number in _EXIT_CODES:
        signal.signal(number, _handle)


def received() -> int | None:
    """The exit code of the signal that came, None if none did."""
    return None if _received is None else _EXIT_CODES[_received]


def check() -> None:
    """Raise again for a signal whose exception was lost."""
    if _received is not None:
        raise KeyboardInterrupt if _received == signal.SIGINT else Terminated


def forget() -> None:
    """A signal was dealt with, and work goes on."""
    global _received
    _received = None


def _handle(number: int, _frame: FrameType | None) -> None:
    global _received
    _received = signal.Signals(number)
    check()
