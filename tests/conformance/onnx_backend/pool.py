"""Many cases in a few processes. A case that kills its process or takes too long is a crash, and the rest goes on."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence

from tests.conformance.onnx_backend.suite import Outcome

SECONDS = 120.0  # for one case; most take a twentieth of one
READY = "ready\n"
COMMAND = (sys.executable, "-m", "tests.conformance.onnx_backend.worker")


def run(names: Sequence[str], workers: int | None = None) -> list[Outcome]:
    """The outcome of every case, in the order of `names`."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in names:
        waiting.put(name)
    found: dict[str, Outcome] = {}
    threads = [threading.Thread(target=_serve, args=(waiting, found)) for _ in range(workers or os.cpu_count() or 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[name] for name in names]


def _serve(waiting: queue.SimpleQueue[str], found: dict[str, Outcome]) -> None:
    process = None
    while True:
        try:
            name = waiting.get_nowait()
        except queue.Empty:
            break
        process = process or _start()
        answer = _ask(process, name)
        if answer is None:
            process.kill()
            code = process.wait()
            found[name] = Outcome(name, "CRASH", f"the process ended with {code} or took over {SECONDS:.0f} s")
            process = None
        else:
            found[name] = Outcome(**json.loads(answer))
    if process is not None:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def _start() -> subprocess.Popen[str]:
    process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == READY
    return process


def _ask(process: subprocess.Popen[str], name: str) -> str | None:
    assert process.stdin is not None and process.stdout is not None
    alarm = threading.Timer(SECONDS, process.kill)
    alarm.start()
    try:
        process.stdin.write(name + "\n")
        process.stdin.flush()
        return process.stdout.readline() or None
    except BrokenPipeError:
        return None
    finally:
        alarm.cancel()
