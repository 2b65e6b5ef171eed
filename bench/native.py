"""llama.cpp by llama-cpp-python: answers lines of JSON from run.mjs, see lib/native.mjs.

Usage: native.py MODEL.gguf THREADS CONTEXT. `{"prefill": text}` and `{"decode": count}` each give
`{"tokens": int, "seconds": float}`; decoding goes on greedily from the last prefill.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
from llama_cpp import Llama
from llama_cpp import __version__ as version


class Engine:
    def __init__(self, path: str, threads: int, context: int) -> None:
        self.model = Llama(
            path, n_ctx=context, n_batch=512, n_threads=threads, n_threads_batch=threads, n_gpu_layers=0, verbose=False
        )
        self.last = 0

    def prefill(self, text: str) -> dict[str, Any]:
        self.model.reset()  # type: ignore[no-untyped-call]
        started = time.perf_counter()
        ids = self.model.tokenize(text.encode(), add_bos=False)
        self._step(ids)
        return {"tokens": len(ids), "seconds": time.perf_counter() - started}

    def decode(self, count: int) -> dict[str, Any]:
        ids = []
        started = time.perf_counter()
        for _ in range(count):
            ids.append(self.last)
            self._step([self.last])
        seconds = time.perf_counter() - started
        return {"tokens": count, "seconds": seconds, "text": self.model.detokenize(ids).decode(errors="replace")}

    def _step(self, ids: list[int]) -> None:
        self.model.eval(ids)
        logits = self.model._ctx.get_logits_ith(-1)
        self.last = int(np.ctypeslib.as_array(logits, (self.model.n_vocab(),)).argmax())


def main() -> None:
    path, threads, context = sys.argv[1:]
    engine = Engine(path, int(threads), int(context))
    print(json.dumps({"version": f"llama-cpp-python {version}"}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = engine.prefill(request["prefill"]) if "prefill" in request else engine.decode(request["decode"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
