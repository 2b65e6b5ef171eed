"""What was taken away of a model and how it was trained, as sentences and as a section of the page."""

from __future__ import annotations

import html

from edgec.ir import Plan
from edgec.ir.plan import SlimPlan, SlimTrial

_SHOWN = 10  # trials


def slimming_lines(plan: Plan) -> list[str]:
    """One sentence for each thing that was done; none for a whole model."""
    lines = []
    if plan.slim is not None:
        lines += [plan.slim.reason, *_taken(plan.slim), *_compared(plan.slim, plan.heal is not None)]
    if plan.heal is not None:
        heal = plan.heal
        lines.append(f"healed in {heal.steps:,} steps: the loss went from {heal.before:.4g} to {heal.after:.4g}")
    return lines


def _taken(slim: SlimPlan) -> list[str]:
    lines = []
    if slim.vocabulary and slim.weight_bytes:
        lines.append(f"{slim.vocabulary:,} tokens stay")
    if slim.removed_blocks:
        numbers = ", ".join(str(number) for number in slim.removed_blocks)
        lines.append(f"blocks {numbers} go: they change the stream least")
    if slim.mlp_share < 1:
        lines.append(f"{100 * slim.mlp_share:g}% of the features inside MLPs stay, those that bring most to the output")
    if slim.head_groups:
        lines.append(f"{slim.head_groups} groups of attention heads stay")
    return lines


def _compared(slim: SlimPlan, healed: bool) -> list[str]:
    """Beside quantization alone, on the same texts."""
    lines = []
    if slim.loss is not None:
        state = "healed and packed" if healed else "packed"
        lines.append(f"slimmed, {state}: {slim.weight_bytes / 1e6:,.2f} MB at most, it loses {slim.loss:.3g}")
    if slim.alone is not None:
        size, loss = f"{slim.alone.weight_bytes / 1e6:,.2f} MB", f"it loses {slim.alone.loss:.3g}"
        if slim.alone.weight_bytes <= slim.weight_bytes:
            lines.append(f"quantization alone: {size}, {loss}")
        else:
            lines.append(f"quantization alone cannot be this small: at the least it takes {size}, and {loss}")
    return lines


def slimming_section(plan: Plan) -> str:
    """HTML, empty for a whole model."""
    lines = slimming_lines(plan)
    if not lines:
        return ""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    title = "How it was healed" if plan.slim is None else "What was taken away"
    return f"<h2>{title}</h2><ul>{items}</ul>{_trials(plan.slim)}"


def _trials(slim: SlimPlan | None) -> str:
    if slim is None or not slim.trials:
        return ""
    head = (
        '<tr><th class="n">tokens</th><th class="n">blocks gone</th><th class="n">MLP features</th>'
        '<th class="n">head groups</th><th class="n">bits</th><th class="n">loss</th></tr>'
    )
    rows = "".join(_row(trial) for trial in slim.trials[:_SHOWN])
    more = f"<p>{len(slim.trials) - _SHOWN} more lost more.</p>" if len(slim.trials) > _SHOWN else ""
    return (
        "<p>Mixes of the same size, with what each one loses before healing; the first one was taken.</p>"
        f'<div class="wide"><table>{head}{rows}</table></div>{more}'
    )


def _row(trial: SlimTrial) -> str:
    cells = (
        f"{trial.vocabulary:,}" if trial.vocabulary else "all",
        str(trial.removed_blocks),
        f"{100 * trial.mlp_share:g} %",
        str(trial.head_groups or "all"),
        f"{trial.mean_bits:.2f}",
        f"{trial.loss:.4g}",
    )
    return "<tr>" + "".join(f'<td class="n">{cell}</td>' for cell in cells) + "</tr>"


__all__ = ["slimming_lines", "slimming_section"]
