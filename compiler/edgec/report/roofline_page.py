"""The roofline as one HTML file: what each kernel takes, and which part of that the machine needs."""

from __future__ import annotations

import html
from collections.abc import Sequence

from edgec.report import svg
from edgec.report.page import STYLE
from edgec.report.roofline import NUMBERS, Kernel, Phase, Roofline, machine, numbers, summary

_STYLE = """
.name{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:var(--fg);text-anchor:end}
.pale{opacity:.28}.memory{fill:var(--b4)}.cache{fill:var(--b8)}.arithmetic{fill:var(--b32)}
i.memory{background:var(--b4)}i.cache{background:var(--b8)}i.arithmetic{background:var(--b32)}
"""
_LIMITS = {
    "memory": "bound by weights, keys and values from memory",
    "cache": "bound by activations from the cache",
    "arithmetic": "bound by multiplications",
}
_READING = (
    "A bar is the time of all calls of a kernel. Its filled part is what the machine would need at its limits; "
    "the pale rest can be won."
)
_SMALLEST = 0.002  # of a phase's time that a bar is drawn for


def render(title: str, rooflines: Sequence[Roofline]) -> str:
    """The page, UTF-8 text."""
    sections = "\n".join(_section(roofline) for roofline in rooflines)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_text(title)}: kernels</title><style>{STYLE}{_STYLE}</style></head><body><main>\n"
        f"<h1>{_text(title)}</h1><p>{_READING}</p>\n"
        f"{_key()}\n{sections}\n</main></body></html>\n"
    )


def _key() -> str:
    items = "".join(f'<span><i class="{name}"></i>{text}</span>' for name, text in _LIMITS.items())
    return f'<div class="key">{items}</div>'


def _section(roofline: Roofline) -> str:
    limits = "".join(f"<p>{_text(line[0].upper() + line[1:])}.</p>" for line in machine(roofline))
    heading = f"<h2>{_text(roofline.engine)} {_text(roofline.version)}, {_text(roofline.variant)}, one thread</h2>"
    return heading + limits + "".join(_phase(phase) for phase in roofline.phases)


def _phase(phase: Phase) -> str:
    shown = [kernel for kernel in phase.kernels if kernel.seconds >= _SMALLEST * phase.kernel_seconds]
    picture = svg.bars([_bar(kernel, phase) for kernel in shown], title=f"Time of each kernel, {phase.name}")
    return f"<h2>{_text(phase.name)}</h2><p>{_text(summary(phase))}</p>{picture}{_table(phase)}"


def _bar(kernel: Kernel, phase: Phase) -> svg.Bar:
    label = f"{kernel.kernel}  {kernel.shape}"
    share = kernel.seconds / phase.kernel_seconds
    note = f"{share:.1%}, {kernel.share_of_limit:.0%} of limit"
    tip = f"{label}: {1000 * kernel.seconds:.2f} ms, at the limit {1000 * kernel.bound_seconds:.2f} ms"
    return svg.Bar(label, kernel.seconds, kernel.share_of_limit, kernel.limit, note, tip)


def _table(phase: Phase) -> str:
    head = "<tr><th>kernel</th><th>shape</th>" + "".join(f'<th class="n">{name}</th>' for name in NUMBERS)
    rows = "".join(
        f"<tr><td><code>{_text(kernel.kernel)}</code></td><td>{_text(kernel.shape)}</td>"
        + "".join(f'<td class="n">{cell}</td>' for cell in numbers(kernel, phase))
        + f"<td>{kernel.limit}</td></tr>"
        for kernel in phase.kernels
    )
    return f'<div class="wide"><table>{head}<th>limit</th></tr>{rows}</table></div>'


def _text(text: str) -> str:
    return html.escape(text)
