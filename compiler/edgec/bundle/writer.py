"""Writing a bundle: everything goes to a temporary sibling directory, which is renamed at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import edgec
from edgec.bundle.adapters import base_of
from edgec.bundle.golden import Golden
from edgec.bundle.manifest import (
    FORMAT,
    KV,
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    REGIONS,
    REPORT_FILE,
    TOKENIZER_FILE,
    AdapterLinear,
    AdapterSpace,
    Computed,
    Depth,
    Exit,
    FileInfo,
    GraphInfo,
    Manifest,
    Memory,
    ModelInfo,
    Region,
    Slot,
    TokenizerInfo,
    WeightFile,
)
from edgec.bundle.parse import parse_manifest
from edgec.bundle.reader import Bundle
from edgec.bundle.weights import weight_files
from edgec.errors import OutputError
from edgec.ir import LoweredModule, ModelIR, Plan, TensorSlot, TokenizerAssets
from edgec.ir.lowered import AdapterSlots


def write(
    lowered: LoweredModule,
    *,
    model: ModelIR,
    plan: Plan,
    accuracy: Mapping[str, Any],
    out: Path | str,
    report_html: bytes | None = None,
    golden: Callable[[Bundle, int | None], Golden | None] | None = None,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Bundle:
    """Write the bundle directory `out` and open it.

    An edgec bundle or an empty directory at `out` is replaced; anything else only with `force`.
    `golden` is given the bundle while it still lies in its temporary place, whole but for what the
    call returns, and a depth of nested codes (None for all bits). `progress` is called with the number of bytes written
    since the last call. Raises `OutputError` (disk full, something else in the way) and leaves nothing half-written, on
    Ctrl-C too.
    """
    destination = Path(out)
    check_destination(destination, force=force)
    with _temporary_sibling(destination) as folder:
        files = _FileWriter(folder, progress)
        for variant, wasm in sorted(lowered.variants.items()):
            files.add(f"module.{variant}.wasm", wasm)
        weights = []
        for content, segments, depths in weight_files(lowered.weights):
            name = f"weights/{hashlib.sha256(content).hexdigest()}.bin"
            files.add(name, content)
            weights.append(WeightFile(name, segments, depths))
        if model.tokenizer:
            files.add(TOKENIZER_FILE, model.tokenizer.tokenizer_json)
        if report_html is not None:
            files.add(REPORT_FILE, report_html)
        manifest = parse_manifest(_manifest(lowered, model, plan, accuracy, tuple(weights), files.written).dump())
        if golden is not None:
            manifest = parse_manifest(_with_golden(Bundle(folder, manifest), golden).dump())
        (folder / MANIFEST_FILE).write_bytes(manifest.dump())
        _replace(folder, destination)
    return Bundle(destination, manifest)


def check_destination(out: Path | str, *, force: bool = False) -> None:
    """Raises `OutputError` if `write` may not put a bundle there; cheap, so that it can be asked early."""
    path = Path(out)
    if not path.exists() and not path.is_symlink():
        return
    hint = "choose another place, or pass `--force` to replace it"
    if path.is_symlink():
        raise OutputError(f"`{path}` is a link", hint="give the place that it points to")
    if path.is_dir() and (not any(path.iterdir()) or _is_bundle(path)):
        return
    if not force:
        kind = "directory that is not an edgec bundle" if path.is_dir() else "file"
        raise OutputError(f"`{path}` exists and is a {kind}", hint=hint)
    resolved = path.resolve()
    if any(place == resolved or resolved in place.parents for place in (Path.cwd(), Path.home())):
        raise OutputError(f"`{path}` holds the working or home directory", hint="choose another place")


def _is_bundle(path: Path) -> bool:
    manifest = path / MANIFEST_FILE
    try:
        if manifest.stat().st_size > MAX_MANIFEST_BYTES:
            return False
        content = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


class _FileWriter:
    def __init__(self, folder: Path, progress: Callable[[int], None] | None) -> None:
        self._folder = folder
        self._progress = progress
        self.written: dict[str, FileInfo] = {}

    def add(self, name: str, content: bytes | bytearray) -> None:
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as stream:
            stream.write(content)
        self.written[name] = FileInfo(len(content), hashlib.sha256(content).hexdigest())
        if self._progress:
            self._progress(len(content))


@contextlib.contextmanager
def _temporary_sibling(destination: Path) -> Iterator[Path]:
    """A new directory beside `destination`, gone at the end unless it was renamed."""
    folder = destination.parent / f".{destination.name}.{secrets.token_hex(4)}.tmp"
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        yield folder
    except OSError as error:
        raise _output_error(destination, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _output_error(destination: Path, error: OSError) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"no space is left to write `{destination}`", hint="free some space or choose another place")
    return OutputError(f"`{destination}` cannot be written ({error.strerror or error})")


def _replace(folder: Path, destination: Path) -> None:
    """Put `folder` in the place of `destination`, which is put back if that fails."""
    if not destination.exists():
        folder.rename(destination)
        return
    old = folder.with_suffix(".old")
    destination.rename(old)
    try:
        folder.rename(destination)
    except BaseException:
        old.rename(destination)
        raise
    if old.is_dir():
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.unlink(old)


def _with_golden(bundle: Bundle, golden: Callable[[Bundle, int | None], Golden | None]) -> Manifest:
    depths = tuple(Depth(depth.bits, golden(bundle, depth.bits)) for depth in bundle.manifest.depths)
    return dataclasses.replace(bundle.manifest, golden=golden(bundle, None), depths=depths)


def _manifest(
    lowered: LoweredModule,
    model: ModelIR,
    plan: Plan,
    accuracy: Mapping[str, Any],
    weights: tuple[WeightFile, ...],
    files: Mapping[str, FileInfo],
) -> Manifest:
    facts, memory, kv = model.facts, lowered.memory, lowered.kv
    regions = {name: Region(getattr(memory, name).offset, getattr(memory, name).bytes) for name in REGIONS}
    return Manifest(
        edgec=edgec.__version__,
        model=ModelInfo(
            name=facts.name,
            architecture=facts.architecture,
            kind=lowered.kind,
            source_format=facts.source_format,
            source_sha256=facts.source_sha256,
            parameters=facts.parameters,
            license=facts.license,
        ),
        profile=plan.profile,
        plan=plan.to_json(),
        memory=Memory(
            **regions,
            stack_bytes=memory.stack_bytes,
            max_threads=memory.max_threads,
            maximum_bytes=memory.maximum_bytes,
        ),
        modules={variant: f"module.{variant}.wasm" for variant in lowered.variants},
        entry_points={entry.name: entry.parameters for entry in lowered.entry_points},
        dims=lowered.dims,
        inputs=tuple(_slot(slot) for slot in lowered.inputs),
        outputs=tuple(_slot(slot) for slot in lowered.outputs),
        graphs={
            entry.name: GraphInfo(entry.inputs, entry.outputs)
            for entry in lowered.entry_points
            if lowered.kind == "graph"
        },
        kv=KV(kv.bits, kv.page_tokens, kv.page_bytes, kv.pages, kv.table_offset) if kv else None,
        context_length=plan.context_length if lowered.kind == "decoder" else 0,
        prefill_chunk=plan.prefill_chunk if lowered.kind == "decoder" else 0,
        weights=weights,
        files=files,
        tokenizer=_tokenizer(model.tokenizer) if model.tokenizer else None,
        generation={name: value for name, value in model.generation.items() if value is not None},
        task=model.task,
        accuracy=accuracy,
        golden=None,
        computed=tuple(Computed(number.name, number.bound, number.offset) for number in lowered.computed),
        adapters=_adapters(lowered.adapters, facts.source_sha256) if lowered.adapters else None,
        exits=tuple(Exit(**dataclasses.asdict(slot)) for slot in lowered.exits),
        depths=tuple(Depth(bits, None) for bits in plan.depths),
    )


def _adapters(slots: AdapterSlots, source_sha256: str) -> AdapterSpace:
    linears = tuple(AdapterLinear(**dataclasses.asdict(slot)) for slot in slots.linears)
    return AdapterSpace(base_of(source_sha256, linears), slots.rank, slots.switch, linears)


def _slot(slot: TensorSlot) -> Slot:
    return Slot(slot.name, slot.dtype, slot.shape, slot.offset, slot.bytes)


def _tokenizer(assets: TokenizerAssets) -> TokenizerInfo:
    return TokenizerInfo(
        file=TOKENIZER_FILE,
        bos_token_id=assets.bos_token_id,
        eos_token_ids=assets.eos_token_ids,
        pad_token_id=assets.pad_token_id,
        chat_template=assets.chat_template,
        special_tokens=assets.special_tokens,
    )
