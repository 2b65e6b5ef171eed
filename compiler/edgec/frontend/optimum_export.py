"""The process that runs Optimum: `python -m edgec.frontend.optimum_export FOLDER OUTPUT TASK OPSET`.

Writes `*.onnx` into OUTPUT. When it fails, the last line of its output is a JSON object with
`kind` ("unsupported" or "import"), `message` and `hint`, or else there is a traceback.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(folder: str, output: str, task: str, opset: str) -> int:
    try:
        from optimum.exporters.onnx import main_export
        from optimum.exporters.tasks import TasksManager
    except ImportError as error:
        return _fail("import", error)
    model_type = str(json.loads((Path(folder) / "config.json").read_bytes()).get("model_type"))
    try:
        tasks = TasksManager.get_supported_tasks_for_model_type(model_type, "onnx", library_name="transformers")
    except KeyError:
        tasks = {}
    if task not in tasks:
        known = ", ".join(f"`{name}`" for name in tasks) or "none of its tasks"
        return _fail(
            "unsupported", f"Optimum does not export `{model_type}` models for `{task}`", f"it exports {known}"
        )
    main_export(
        folder,
        output=output,
        task=task,
        opset=int(opset),
        device="cpu",
        framework="pt",
        library_name="transformers",
        trust_remote_code=False,
        do_validation=False,
    )
    return 0


def _fail(kind: str, error: Exception | str, hint: str = "") -> int:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    print(json.dumps({"kind": kind, "message": lines[0].rstrip("."), "hint": hint}))
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
