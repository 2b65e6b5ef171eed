"""Run a command and note what it took: timed.py OUT.json COMMAND... writes `{"seconds": ..., "peakBytes": ...}`.

The peak is the largest resident memory that one of its processes had. OUT is not written when the command fails.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path


def main(target: str, *command: str) -> int:
    started = time.monotonic()
    code = subprocess.run(command, check=False).returncode
    seconds = time.monotonic() - started
    if code == 0:
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
        Path(target).write_text(json.dumps({"seconds": round(seconds, 1), "peakBytes": peak * unit}) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
