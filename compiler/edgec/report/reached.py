"""How the smallest plan that is accurate enough was found, as a sentence and as a section of the page."""

from __future__ import annotations

import html

from edgec.ir import Plan
from edgec.ir.plan import AccuracyTrial


def accuracy_lines(plan: Plan) -> list[str]:
    """One sentence; none where no accuracy was asked for."""
    found = plan.accuracy
    if found is None:
        return []
    return [
        f"accuracy {found.reached:.4f}, {found.wanted:g} was wanted: {found.measure}, on {found.samples:,} samples "
        f"that nothing was calibrated on, the smallest of {len(found.trials)} plans that were tried"
    ]


def accuracy_section(plan: Plan) -> str:
    """HTML, empty where no accuracy was asked for."""
    found = plan.accuracy
    if found is None:
        return ""
    head = '<tr><th class="n">bits per weight</th><th class="n">MB of weights</th><th class="n">accuracy</th></tr>'
    rows = "".join(_row(trial) for trial in sorted(found.trials, key=lambda trial: trial.bits_per_weight))
    sentence = html.escape(accuracy_lines(plan)[0])
    return f'<h2>Accuracy that was asked for</h2><p>{sentence}</p><div class="wide"><table>{head}{rows}</table></div>'


def _row(trial: AccuracyTrial) -> str:
    cells = (f"{trial.bits_per_weight:.2f}", f"{trial.bytes / 1e6:,.2f}", f"{trial.reached:.4f}")
    return "<tr>" + "".join(f'<td class="n">{cell}</td>' for cell in cells) + "</tr>"


__all__ = ["accuracy_lines", "accuracy_section"]
