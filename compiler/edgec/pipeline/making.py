"""The stages `compress`, `lower` and `bundle`."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgec.errors import OutputError
from edgec.pipeline.data import calibration_samples, more_samples
from edgec.pipeline.options import heals, trains_adapter
from edgec.pipeline.work import Work

if TYPE_CHECKING:
    from edgec.heal.adapter import HealingAdapter
    from edgec.ir import CompressedModel, ModelIR

SCRATCH_BYTES = 32 << 20  # more than the object files of the largest models


def compress_weights(work: Work) -> None:
    from edgec.compress import compress, needs_samples

    model, plan = work.model, work.plan
    assert model is not None and plan is not None
    advance, samples = work.advance("compress"), None
    if needs_samples(plan) or work.options.calibration is not None:  # the user's is read in any case: mistakes show
        advance("calibration data", 0, 1)
        samples = calibration_samples(work, model)
    work.compressed = compress(
        model,
        plan,
        samples=samples,
        more=more_samples(work, model),
        healed=work.healed,
        store=work.cache,
        source_key=work.key(model),
        progress=advance,
    )
    work.samples = None
    work.compressed.verify()
    if work.slimmed is not None and work.slimmed.judge is not None:
        _judge(work, work.compressed, work.slimmed.judge)


def _judge(work: Work, compressed: CompressedModel, judge: Callable[[ModelIR], float]) -> None:
    """What the slimmed model loses as it is packed now, beside what was measured while its mix was searched."""
    from edgec.compress import dequantized_model

    assert compressed.plan.slim is not None
    loss = round(judge(dequantized_model(compressed)), 6)
    slim = dataclasses.replace(compressed.plan.slim, loss=loss)
    work.plan = dataclasses.replace(compressed.plan, slim=slim)
    work.compressed = dataclasses.replace(compressed, plan=work.plan)


def lower_to_wasm(work: Work) -> None:
    from edgec.lower.wasm import lower

    assert work.compressed is not None
    _check_scratch()
    profile_kernels = work.options.profile_kernels
    advance = work.advance("lower")
    work.lowered = lower(work.compressed, profile_kernels=profile_kernels, store=work.cache, progress=advance)


def _check_scratch() -> None:
    """LLVM writes object files to the temporary folder, and ends the whole process when it cannot."""
    folder = tempfile.gettempdir()
    if shutil.disk_usage(folder).free < SCRATCH_BYTES:
        raise OutputError(
            f"less than {SCRATCH_BYTES >> 20} MiB are left in the temporary folder `{folder}`",
            hint="free some space, or set TMPDIR to another folder",
        )


def write_bundle(work: Work) -> None:
    from edgec import bundle, report, run

    compressed, lowered = work.compressed, work.lowered
    assert compressed is not None and lowered is not None and work.output is not None
    page = report.render(report.from_stages(compressed, lowered))
    total = sum(len(wasm) for wasm in lowered.variants.values()) + sum(w.data.nbytes for w in lowered.weights)
    advance, written = work.advance("bundle"), 0

    def progress(count: int) -> None:
        nonlocal written
        written += count
        advance("", min(written, total), total)

    work.bundle = bundle.write(
        lowered,
        model=compressed.model,
        plan=compressed.plan,
        accuracy=compressed.report,
        out=work.output,
        report_html=page.encode(),
        golden=None if work.options.profile_kernels else run.make_golden,
        force=work.options.force,
        progress=progress,
    )
    if work.adapter is not None:
        _write_adapter(work, work.adapter)
    if (heals(work.options) or trains_adapter(work.options)) and work.options.heal_folder is None:
        shutil.rmtree(work.heal_folder() or "", ignore_errors=True)


def _write_adapter(work: Work, adapter: HealingAdapter) -> None:
    from edgec.adapters import pack_adapter, write

    assert work.bundle is not None
    space, file = work.bundle.manifest.adapters, work.adapter_file()
    assert space is not None and file is not None
    write(pack_adapter(space, adapter.pairs, space.rank, "healed"), file)


__all__ = ["compress_weights", "lower_to_wasm", "write_bundle"]
