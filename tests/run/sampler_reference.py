"""docs/runtime-abi.md's sampler, word for word in plain Python, and the cases that other runtimes run too.

`python -m tests.run.sampler_reference` rewrites `sampler_cases.json`.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CASES = Path(__file__).with_name("sampler_cases.json")
MASK = 0xFFFFFFFF


class Xoshiro:
    def __init__(self, seed: int) -> None:
        self.s = []
        for _ in range(4):
            seed = (seed + 0x9E3779B9) & MASK
            z = seed
            z ^= z >> 16
            z = z * 0x21F0AAAD & MASK
            z ^= z >> 15
            z = z * 0x735A2D97 & MASK
            z ^= z >> 15
            self.s.append(z)

    def next(self) -> int:
        s = self.s
        rotated = s[1] * 5 & MASK
        rotated = (rotated << 7 | rotated >> 25) & MASK
        result = rotated * 9 & MASK
        t = s[1] << 9 & MASK
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = (s[3] << 11 | s[3] >> 21) & MASK
        return result

    def uniform(self) -> float:
        a = self.next() >> 5
        b = self.next() >> 6
        return (a * 67108864 + b) / 9007199254740992


def exp64(x: float) -> float:
    if x < -700:
        return 0.0
    k = math.floor(x * 1.4426950408889634 + 0.5)
    r = (x - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10
    p = 1 / math.factorial(13)
    for i in range(12, -1, -1):
        p = p * r + 1 / math.factorial(i)
    return math.ldexp(p, k)


def sample(logits: Sequence[float], seen: Sequence[int], options: dict[str, float], random: Xoshiro) -> int:
    l = [float(value) for value in logits]  # noqa: E741 - the document's name
    penalty = options.get("repetition_penalty", 1)
    for id in set(seen) if penalty != 1 else ():
        l[id] = l[id] / penalty if l[id] > 0 else l[id] * penalty
    temperature = options.get("temperature", 0)
    if temperature == 0:
        return max(range(len(l)), key=lambda id: (l[id], -id))
    candidates = sorted(range(len(l)), key=lambda id: (-l[id], id))
    top_k = int(options.get("top_k", 0))
    if top_k > 0:
        candidates = candidates[:top_k]
    p = [exp64((l[id] - l[candidates[0]]) / temperature) for id in candidates]
    top_p = options.get("top_p", 1)
    if top_p < 1:
        total = 0.0
        for value in p:
            total += value
        running, keep = 0.0, len(p)
        for i, value in enumerate(p):
            running += value
            if running >= top_p * total:
                keep = i + 1
                break
        candidates, p = candidates[:keep], p[:keep]
    min_p = options.get("min_p", 0)
    if min_p > 0:
        kept = [i for i, value in enumerate(p) if value >= min_p]
        candidates, p = [candidates[i] for i in kept], [p[i] for i in kept]
    total = 0.0
    for value in p:
        total += value
    u = random.uniform() * total
    running = 0.0
    for id, value in zip(candidates, p, strict=True):
        running += value
        if running > u:
            return id
    return candidates[-1]


def logits_of(seed: int, count: int, scale: float) -> list[float]:
    """float32 values that any language makes from the same random numbers; some are equal."""
    random = Xoshiro(seed)
    return [
        struct.unpack("<f", struct.pack("<f", math.floor(random.uniform() * 4096) / 4096 * scale))[0]
        for _ in range(count)
    ]


def cases() -> list[dict[str, Any]]:
    """Each: logits = logits_of(logits_seed, count, scale); ids sampled one after the other, all remembered."""
    table: list[tuple[int, float, dict[str, float], list[int]]] = [
        (8, 4.0, {}, []),
        (8, 4.0, {"repetition_penalty": 1.5}, [0, 3, 5]),
        (64, 6.0, {"temperature": 1.0, "seed": 1}, []),
        (64, 6.0, {"temperature": 0.7, "seed": 2, "top_k": 5}, []),
        (64, 6.0, {"temperature": 1.3, "seed": 3, "top_p": 0.9}, []),
        (64, 6.0, {"temperature": 0.8, "seed": 4, "min_p": 0.1}, []),
        (64, 30.0, {"temperature": 0.01, "seed": 5}, []),
        (
            1000,
            9.0,
            {"temperature": 0.9, "seed": 6, "top_p": 0.95, "min_p": 0.02, "repetition_penalty": 1.1},
            [1, 2, 3],
        ),
        (5000, 9.0, {"temperature": 1.5, "seed": 4294967295, "top_k": 40, "top_p": 0.5, "repetition_penalty": 0.9}, []),
    ]
    result = []
    for index, (count, scale, options, prompt) in enumerate(table):
        random = Xoshiro(int(options.get("seed", 0)))
        seen, ids = list(prompt), []
        for _ in range(20):
            id = sample(logits_of(index, count, scale), seen, options, random)
            seen.append(id)
            ids.append(id)
        case = {"logits_seed": index, "count": count, "scale": scale, "prompt": prompt, "options": options, "ids": ids}
        result.append(case)
    return result


if __name__ == "__main__":
    lines = ",\n".join("  " + json.dumps(case) for case in cases())
    CASES.write_text(f"[\n{lines}\n]\n")
