"""The report as one HTML file that needs nothing else and always has the same bytes for the same report."""

from __future__ import annotations

import html

from edgec.report import svg
from edgec.report.data import REGIONS, Report
from edgec.report.depths import depths_section
from edgec.report.exits import exits_section
from edgec.report.reached import accuracy_section
from edgec.report.slimming import slimming_section
from edgec.report.units import mebibytes, millions

STYLE = """
:root{color-scheme:light dark;--bg:#fbfbf9;--fg:#1d1f23;--dim:#667;--line:#dcdcd6;--card:#fff;
--b4:#0f8b8d;--b6:#6a9c3f;--b8:#e09f3e;--b32:#8d6cab;--r1:#5b7db1;--r2:#0f8b8d;--r3:#c26d5a}
@media (prefers-color-scheme:dark){:root{--bg:#15171a;--fg:#e8e8e4;--dim:#9aa;--line:#33373c;--card:#1c1f23}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:960px;margin:0 auto;padding:32px 20px 64px}h1{font-size:1.7rem;margin:0 0 2px}
h2{font-size:1.1rem;margin:36px 0 8px}p{margin:0 0 10px;color:var(--dim)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(128px,1fr));gap:10px;margin:20px 0}
.facts div{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 14px}
.facts b{display:block;font-size:1.25rem;font-weight:600}.facts span{color:var(--dim);font-size:.85rem}
svg{width:100%;height:auto;display:block}.grid{stroke:var(--line)}.tick{fill:var(--dim);font-size:11px}
.mid{text-anchor:middle}.end{text-anchor:end}.on{fill:#fff;font-size:12px;text-anchor:middle;pointer-events:none}
.b4{fill:var(--b4)}.b6{fill:var(--b6)}.b8{fill:var(--b8)}.b32{fill:var(--b32)}.r0{fill:#9aa3ad}.r1{fill:var(--r1)}
.r2{fill:var(--r2)}.r3{fill:var(--r3)}.heat{fill:var(--r3)}
.front{fill:none;stroke:var(--dim);stroke-width:1.5}.mark{stroke:var(--fg);stroke-width:2;stroke-dasharray:4 3}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;margin:6px 0;color:var(--dim);font-size:.85rem}
.key i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.88rem}
th,td{text-align:left;padding:5px 10px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}th{color:var(--dim);font-weight:500}
code{font:.86em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
i.b4{background:var(--b4)}i.b6{background:var(--b6)}i.b8{background:var(--b8)}i.b32{background:var(--b32)}
i.r0{background:#9aa3ad}i.r1{background:var(--r1)}i.r2{background:var(--r2)}i.r3{background:var(--r3)}
"""
_REGION_STYLE = {"static": "r0", "control": "r0", "stacks": "r0", "workspace": "r1", "weights": "r2", "kv": "r3"}
_REGION_NAME = {"kv": "conversation (KV cache)", "static": "program data", "control": "control"}


def render(report: Report) -> str:
    """The page, UTF-8 text."""
    title = f"{report.model} for {report.plan.profile}"
    sections = [
        _head(report),
        _memory(report),
        _layers(report),
        _errors(report),
        slimming_section(report.plan),
        accuracy_section(report.plan),
        exits_section(report.exits),
        depths_section(report),
        _reasons(report),
        _tensors(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body><main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def _head(report: Report) -> str:
    prediction = report.plan.prediction
    stored = 8 * report.packed_bytes + 32 * report.float_parameters
    elements = sum(row.rows * row.columns for row in report.tensors) + report.float_parameters
    facts = [
        (millions(report.parameters), "parameters"),
        (mebibytes(prediction.download_bytes), "to download"),
        (mebibytes(prediction.peak_bytes), "of memory at most"),
        (f"{stored / elements:.2f}" if elements else "-", "bits per weight, all included"),
    ]
    if report.kind == "decoder":
        facts.append((f"{report.plan.context_length:,}", "tokens of context"))
        facts.append((f"{prediction.decode_tokens_per_second:.0f}", "tokens per second, predicted"))
    cells = "".join(f"<div><b>{_text(value)}</b><span>{_text(label)}</span></div>" for value, label in facts)
    license_note = f", license {report.license}" if report.license else ""
    return (
        f"<h1>{_text(report.model)}</h1><p>{_text(report.architecture)} from {_text(report.source_format)}"
        f"{_text(license_note)}, compiled for <code>{_text(report.plan.profile)}</code></p>"
        f'<div class="facts">{cells}</div>'
    )


def _memory(report: Report) -> str:
    parts = [
        svg.Part(_REGION_NAME.get(name, name), report.memory[name], _REGION_STYLE[name])
        for name in REGIONS
        if report.memory[name]
    ]
    bar = svg.stacked_bar(parts, title="Memory regions in bytes")
    return f"<h2>Memory on the device</h2>{bar}{_key([(p.style, f'{p.label} {mebibytes(p.value)}') for p in parts])}"


def _layers(report: Report) -> str:
    if not report.tensors:
        return ""
    groups = [
        (layer.name, [svg.Part(f"{bits} bit", size, f"b{bits}") for bits, size in layer.bytes_by_bits.items()])
        for layer in report.layers
    ]
    widths = sorted({row.bits for row in report.tensors})
    return (
        "<h2>Bytes per layer</h2>"
        + svg.columns(groups, title="Bytes per layer, by bits")
        + _key([(f"b{bits}", f"{bits} bit") for bits in widths])
    )


def _errors(report: Report) -> str:
    if not report.tensors:
        return ""
    points = [(row.name, row.relative_rmse, f"b{row.bits}") for row in report.tensors]
    return (
        "<h2>What quantization changed</h2><p>Root mean square error of each tensor, relative to its values; "
        f"{100 * report.relative_rmse:.2f} % over all weights.</p>"
        + svg.dots(points, title="Relative error per tensor")
        + error_map(report)
    )


def error_map(report: Report) -> str:
    """Layers across, kinds of tensors down; empty where no tensor has a numbered layer."""
    rows = [row for row in report.tensors if row.layer.isdigit()]
    if not rows:
        return ""
    calibrated = all(row.output_error is not None for row in rows)
    layers = list(dict.fromkeys(row.layer for row in rows))
    errors = {(row.kind, row.layer): row.output_error if calibrated else row.relative_rmse for row in rows}
    kinds = list(dict.fromkeys(row.kind for row in rows))
    table = [(kind, [errors.get((kind, layer)) for layer in layers]) for kind in kinds]
    what = "what each matrix makes of its calibration inputs" if calibrated else "each matrix's weights"
    worst = max(error for error in errors.values() if error is not None)
    return (
        f"<h2>Error per layer</h2><p>Relative error of {what}; the darkest is {100 * worst:.2f} %.</p>"
        + svg.heat_map(layers, table, title="Relative error per layer and kind of tensor")
    )


def _reasons(report: Report) -> str:
    if not report.plan.reasons:
        return ""
    items = "".join(f"<li>{_text(reason)}</li>" for reason in report.plan.reasons)
    return f"<h2>Why it was compiled this way</h2><ul>{items}</ul>"


def _tensors(report: Report) -> str:
    if not report.tensors:
        return ""
    head = (
        '<tr><th>tensor</th><th class="n">bits</th><th class="n">shape</th><th class="n">size</th>'
        '<th class="n">error</th><th>why</th></tr>'
    )
    rows = "".join(
        f'<tr><td><code>{_text(row.name)}</code></td><td class="n">{row.bits}</td>'
        f'<td class="n">{row.rows} × {row.columns}</td><td class="n">{mebibytes(row.bytes)}</td>'
        f'<td class="n">{100 * row.relative_rmse:.2f} %</td><td>{_text(row.reason)}</td></tr>'
        for row in report.tensors
    )
    rest = f"<p>{millions(report.float_parameters)} more values stay float32.</p>" if report.float_parameters else ""
    return f'<h2>Tensors</h2><div class="wide"><table>{head}{rows}</table></div>{rest}'


def _key(entries: list[tuple[str, str]]) -> str:
    items = "".join(f'<span><i class="{style}"></i>{_text(label)}</span>' for style, label in entries)
    return f'<div class="key">{items}</div>'


def _text(text: str) -> str:
    return html.escape(text)
