"""`make_plan`: shapes and a profile in, decisions with reasons out. No tensor's values are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgec import profiles
from edgec.errors import DoesNotFitError, UsageError
from edgec.ir.compressed import GROUP
from edgec.ir.model import DecoderFacts, ModelIR
from edgec.ir.plan import (
    ADAPTER_STEP,
    BLOCK_TOKENS,
    CALIBRATED_QUANTIZERS,
    GROUP_SIZES,
    LARGEST_ADAPTER,
    LARGEST_DECODER_GROUP,
    NESTED_BITS,
    NESTED_DEPTHS,
    PAGE_TOKENS,
    TERNARY,
    VARIANTS,
    WEIGHT_BITS,
    AdapterPlan,
    Bits,
    KVPlan,
    Plan,
    Prediction,
    QuantizerName,
    TensorPlan,
    group_size_allowed,
)
from edgec.ir.weight_use import WeightUse, weight_uses
from edgec.plan import memory
from edgec.plan.allocate import Errors, allocate
from edgec.plan.bits import TURNS, group_sizes, tensor_plans, turn_plan
from edgec.plan.dims import bounds
from edgec.profiles import Profile, query
from edgec.profiles.units import size_text

DEFAULT_CONTEXT = 4096  # tokens; longer ones are for those who ask
SHORTEST_CONTEXT = 256  # tokens; below, a chat makes no sense
SELF_CALIBRATED = (
    256 << 20
)  # weights; a larger decoder does not calibrate itself unless asked: half a second per million
_QUANTIZED_BEFORE = ("gguf",)  # formats whose weights may lie on a grid already, which compact scales would miss
_ROOM = 4  # weights of a graph that take this part of the download, or less, need not be as small as they can be
PREFILL_CHUNK = 128  # tokens; weights are read once per chunk


@dataclass(frozen=True)
class _Demand:
    """What the model needs of any device, apart from the context."""

    download: int
    weights: int
    page_bytes: int  # of PAGE_TOKENS tokens in the KV cache
    limit: int  # most tokens that are wanted, 0 for graphs
    least: int  # fewest tokens that are acceptable
    fixed: int  # memory that the wasm needs besides weights, cache and workspace

    def peak(self, context: int, workspace: int) -> int:
        return self.fixed + self.weights + workspace + self.cache(context)

    def cache(self, context: int) -> int:
        """Bytes of the keys and values of `context` tokens."""
        return -(-context // PAGE_TOKENS) * self.page_bytes


def make_plan(
    model: ModelIR,
    profile: Profile,
    *,
    bits: Bits | None = None,
    context_length: int | None = None,
    kv_bits: int | None = None,
    max_dims: Mapping[str, int] | None = None,
    precision: Literal["auto", "float32"] = "auto",
    quantizer: QuantizerName | None = None,
    calibration: Literal["given", "own", "none"] = "none",
    target: Target | None = None,
    losses: Mapping[str, float] | None = None,
    errors: Mapping[str, Errors] | None = None,
    compact: bool | None = None,
    group_size: int | None = None,
    adapter_rank: int | None = None,
    rotated: bool = False,
    nested: tuple[int, ...] = (),
) -> Plan:
    """Decide how `model` is stored and run on `profile`. How fast that is, `foresee` says.

    `bits` (2 to 8, 32, or "ternary") overrides the choice for all weight matrices, `group_size` (columns that share a
    scale, a multiple of 32) that for all quantized ones, `kv_bits` (16 or 32) that for the KV cache, `context_length`
    (tokens, rounded up to a multiple of 16) the length that is aimed at, `max_dims` the upper bounds of a graph's
    symbolic dimensions. `precision="float32"`
    keeps everything float. `quantizer` overrides the choice for all quantized matrices; `calibration`
    says where data for it come from: the user, the model itself, or nowhere. `target` bounds the
    weights, whose bits are then allocated by `losses` (of every `quantizable` matrix, see
    `edgec.compress.sensitivities`) and `errors` (of those in `to_measure`, see
    `edgec.compress.rounding_errors`). Under a target scales and the like are `compact`, unless the weights may have
    been quantized before. `adapter_rank` makes room for adapters of up to that rank. `rotated` says that `model` is.
    `nested` has the bits (3, 2, or both) that a device may take of codes of 4.

    Raises `UsageError` for choices that make no sense and `DoesNotFitError`, with the numbers
    and the nearest thing that would fit.
    """
    _check_choices(model, bits, context_length, kv_bits, precision)
    _check_group_size(model, group_size)
    adapters = _adapters(model, adapter_rank)
    if adapters is not None and quantizer == "awq":
        raise UsageError(
            "the quantizer `awq` scales what matrices are multiplied with, which adapters do not know",
            hint="choose another quantizer, for example `gptq`",
        )
    _check_nested(nested, bits, quantizer, target)
    calibrated, notes = _calibrated(model, "gptq" if nested else quantizer, calibration, target)
    if rotated:
        notes = [*notes, "the stream is rotated, so that no feature stands out and prompts are read faster: asked for"]
        if _quantized_before(model):
            notes.append(
                "what the file's weights were rounded to is lost by the rotation, they are rounded a second time"
            )
    if precision == "float32":
        bits, kv_bits = 32, 32
    allocated = None
    if compact is None:
        compact = target is not None and not _quantized_before(model)
    if target is not None:
        if bits is not None:
            raise UsageError("a target and a number of bits exclude each other", hint="leave one of them out")
        assert losses is not None
        uses = weight_uses(model.model)
        floats_only = [
            turn_plan(uses[tensor.name]) if tensor.name in TURNS and tensor.name not in losses else tensor
            for tensor in tensor_plans(model, 32, compact=compact)
        ]
        budget = _matrix_budget(model, target, losses, uses, floats_only)
        sizes = group_sizes(uses, group_size)
        allocated = allocate(
            model.facts.name,
            uses,
            losses,
            budget,
            compact=compact,
            group_sizes=sizes,
            errors=errors,
            ternary=True,
        )
    roomy = model.decoder is None and _has_room(model, profile)
    tensors = tensor_plans(model, bits, quantizer, calibrated, allocated, compact, group_size, roomy, nested)
    if nested and not any(tensor.coarser for tensor in tensors):
        raise UsageError(
            f"no matrix of `{model.facts.name}` gets {NESTED_BITS} bits on this device, and only those can be nested",
            hint=f"ask for them with `--bits {NESTED_BITS}`",
        )
    notes = [*notes, *_nested_notes(model, tensors, nested)]
    floats = not any(tensor.quantized for tensor in tensors)
    dims, reasons = ({}, notes) if model.decoder else bounds(model, max_dims)
    if model.decoder and max_dims:
        raise UsageError("a language model has no dimensions to bound", hint="give it a context length")
    planner = _Planner(model, tensors, floats, dims, kv_bits or 16, context_length, adapters)
    context = planner.context(profile)
    if context is None:
        raise planner.refusal(profile, asked=bits is not None or kv_bits is not None)
    return dataclasses.replace(planner.plan(profile, context, reasons, kv_asked=kv_bits is not None), rotated=rotated)


def _check_choices(
    model: ModelIR, bits: Bits | None, context_length: int | None, kv_bits: int | None, precision: str
) -> None:
    if bits not in (None, TERNARY, *WEIGHT_BITS, 32):
        raise UsageError(f"weights cannot have {bits} bits", hint="choose 2 to 8, 32, or `ternary`")
    if kv_bits not in (None, 16, 32):
        raise UsageError(f"the KV cache cannot have {kv_bits} bits", hint="choose 16 or 32")
    if precision not in ("auto", "float32"):
        raise UsageError(f"there is no precision `{precision}`", hint="choose `auto` or `float32`")
    if precision == "float32" and (bits not in (None, 32) or kv_bits not in (None, 32)):
        raise UsageError("`float32` keeps everything at 32 bits", hint="leave out the other choices of bits")
    if model.decoder is None:
        if context_length is not None or kv_bits is not None:
            raise UsageError(f"`{model.facts.name}` is no language model, it has no context and no KV cache")
        return
    longest = model.decoder.longest_context
    if context_length is not None and not 1 <= context_length <= longest:
        raise UsageError(
            f"`{model.facts.name}` was trained for a context of {longest:,} tokens, not {context_length:,}",
            hint=f"choose 1 to {longest:,}",
        )
    if longest < BLOCK_TOKENS:
        raise UsageError(f"`{model.facts.name}` has a context of {longest} tokens, the least is {BLOCK_TOKENS}")


def _check_nested(
    nested: tuple[int, ...], bits: Bits | None, quantizer: QuantizerName | None, target: Target | None
) -> None:
    if not nested:
        return
    if nested not in NESTED_DEPTHS:
        raise UsageError(
            f"codes of {NESTED_BITS} bits cannot hold depths of {list(nested)}", hint="choose 3, 2 or both"
        )
    if bits not in (None, NESTED_BITS):
        raise UsageError(f"nested codes have {NESTED_BITS} bits, not {bits}", hint="leave the number of bits out")
    if target is not None:
        raise UsageError(
            "a target gives each matrix bits of its own, nested codes have 4", hint="leave one of them out"
        )
    if quantizer not in (None, "gptq"):
        raise UsageError(f"nested codes are found by GPTQ, not by `{quantizer}`", hint="leave the quantizer out")


def _nested_notes(model: ModelIR, tensors: Sequence[TensorPlan], nested: tuple[int, ...]) -> list[str]:
    whole, notes = memory.weight_bytes(model, tensors, stored=True), []
    for bits in nested:
        at_depth = [dataclasses.replace(tensor, bits=bits) if tensor.coarser else tensor for tensor in tensors]
        size = memory.weight_bytes(model, at_depth, stored=True)
        notes.append(
            f"nested codes: a device may load {bits} of their {NESTED_BITS} bits (`--depth {bits}`), which are "
            f"{size_text(size)} of weights instead of {size_text(whole)}"
        )
    return notes


def _has_room(model: ModelIR, profile: Profile) -> bool:
    """Whether 7 bits for all matrices are a small part of what may be downloaded."""
    elements = sum(use.elements for use in weight_uses(model.model).values())
    return elements * 7 / 8 <= float(query(profile, "budget.download").value) / _ROOM


def _check_group_size(model: ModelIR, size: int | None) -> None:
    if size is None or (group_size_allowed(size) and not (model.decoder and size > LARGEST_DECODER_GROUP)):
        return
    if group_size_allowed(size):
        raise UsageError(
            f"`{model.facts.name}` is a language model, in which at most {LARGEST_DECODER_GROUP} columns share a scale",
            hint="choose 32, 64 or 128",
        )
    raise UsageError(f"groups cannot have {size} columns", hint=f"choose {GROUP_SIZES}")


def _adapters(model: ModelIR, rank: int | None) -> AdapterPlan | None:
    if rank is None:
        return None
    if model.decoder is None:
        raise UsageError(f"`{model.facts.name}` is no language model, adapters are for those")
    if not 1 <= rank <= LARGEST_ADAPTER:
        raise UsageError(f"adapters cannot have the rank {rank}", hint=f"choose 1 to {LARGEST_ADAPTER}")
    rank = -(-rank // ADAPTER_STEP) * ADAPTER_STEP
    return AdapterPlan(rank, memory.adapter_bytes(model, rank))


def _quantized_before(model: ModelIR) -> bool:
    return model.facts.source_format in _QUANTIZED_BEFORE


def to_measure(model: ModelIR, group_size: int | None) -> tuple[int, ...]:
    """The group sizes for which rounding errors are to be measured before bits are allocated: none where weights are
    as they were trained, which all lose much the same. `group_size` is the one asked for."""
    if not _quantized_before(model):
        return ()
    return tuple(sorted({GROUP, *group_sizes(weight_uses(model.model), group_size)}))


@dataclass(frozen=True)
class Target:
    """How large the weights may be: bytes of the whole download, bits per weight of the matrices, or bytes of all
    weights as stored."""

    bytes: int | None = None
    bits_per_weight: float | None = None
    weight_bytes: int | None = None


def _matrix_budget(
    model: ModelIR,
    target: Target,
    losses: Mapping[str, float],
    uses: Mapping[str, WeightUse],
    floats: Sequence[TensorPlan],
) -> int:
    """Bytes for the matrices in `losses`, with their scales and zero points; `floats` plans all others."""
    if target.bits_per_weight is not None:
        return int(target.bits_per_weight * sum(uses[name].elements for name in losses) / 8)
    tokenizer = len(model.tokenizer.tokenizer_json) if model.tokenizer else 0
    others = memory.weight_bytes(model, floats, stored=True) - sum(
        memory.matrix_bytes(uses[name], 32, stored=True) for name in losses
    )
    if target.weight_bytes is not None:
        return target.weight_bytes - others
    assert target.bytes is not None
    return target.bytes - tokenizer - memory.MODULE_BYTES - others


def _calibrated(
    model: ModelIR, quantizer: QuantizerName | None, calibration: str, target: Target | None
) -> tuple[bool, list[str]]:
    """Whether matrices are quantized on calibration data, and why not where there could be some."""
    if quantizer in CALIBRATED_QUANTIZERS and calibration == "none":
        raise UsageError(
            f"the quantizer `{quantizer}` needs calibration data, and `{model.facts.name}` cannot make its own",
            hint="give a text, a folder of pictures or an .npz file with `--calibration`",
        )
    if calibration == "own" and quantizer is None and target is None and model.facts.parameters > SELF_CALIBRATED:
        why = f"rounded to nearest: to calibrate {model.facts.parameters / 1e6:,.0f} M weights would take minutes"
        return False, [f"{why}, which `--quantizer gptq` or `--calibration FILE` take"]
    return calibration != "none", []


class _Planner:
    """The same model and choices, asked about one profile after the other."""

    def __init__(
        self,
        model: ModelIR,
        tensors: Sequence[TensorPlan],
        floats: bool,
        dims: Mapping[str, int],
        kv_bits: int,
        context_length: int | None,
        adapters: AdapterPlan | None,
    ) -> None:
        self.adapters = adapters
        self.model, self.tensors, self.floats, self.dims, self.kv_bits = model, tuple(tensors), floats, dims, kv_bits
        self.asked_context = context_length
        self.graph_workspace = 0 if model.decoder else memory.graph_workspace_bytes(model, dims)
        tokenizer = len(model.tokenizer.tokenizer_json) if model.tokenizer else 0
        stored = memory.weight_bytes(model, tensors, stored=True)
        limit = least = page_bytes = 0
        if model.decoder is not None:
            limit, least = _context_wanted(model.decoder, context_length)
            page_bytes = memory.kv_page_bytes(model.decoder, kv_bits, PAGE_TOKENS)
        self.demand = _Demand(
            download=stored + tokenizer + memory.MODULE_BYTES,
            weights=memory.weight_bytes(model, tensors, stored=False) + (adapters.bytes if adapters else 0),
            page_bytes=page_bytes,
            limit=limit,
            least=least,
            fixed=memory.FIXED_BYTES,
        )

    # Fitting

    def workspace(self, profile: Profile, context: int) -> int:
        decoder = self.model.decoder
        if decoder is None:
            return self.graph_workspace
        return memory.decoder_workspace_bytes(
            decoder,
            prefill_chunk=min(PREFILL_CHUNK, context),
            context_length=context,
            threads=_threads(profile),
            quantized=not self.floats,
            adapter_rank=self.adapters.rank if self.adapters else 0,
        )

    def peak(self, profile: Profile, context: int) -> int:
        stacks = memory.STACK_BYTES * _threads(profile)
        return stacks + self.demand.peak(context, self.workspace(profile, context))

    def context(self, profile: Profile) -> int | None:
        """The longest context up to the wanted one that fits (0 for graphs), None when nothing fits."""
        demand = self.demand
        if demand.download > query(profile, "budget.storage").value:
            return None
        if self.peak(profile, demand.least) > _available(profile):
            return None
        low, high = demand.least // BLOCK_TOKENS, demand.limit // BLOCK_TOKENS  # low fits
        while low < high:
            middle = (low + high + 1) // 2
            if self.peak(profile, middle * BLOCK_TOKENS) <= _available(profile):
                low = middle
            else:
                high = middle - 1
        return low * BLOCK_TOKENS

    def refusal(self, profile: Profile, *, asked: bool) -> DoesNotFitError:
        demand, name = self.demand, self.model.facts.name
        storage = query(profile, "budget.storage")
        if demand.download > storage.value:
            message = f"`{name}` takes {_mebi(demand.download)} of storage, `{profile.name}` has {storage.text}"
        else:
            parts = [f"weights {_mebi(demand.weights)}", f"workspace {_mebi(self.workspace(profile, demand.least))}"]
            if demand.least:
                cache = demand.cache(demand.least)
                parts.append(f"KV cache of {demand.least:,} tokens {_mebi(cache)}")
            message = (
                f"`{name}` needs {_mebi(self.peak(profile, demand.least))} of memory ({', '.join(parts)}), "
                f"`{profile.name}` has {_mebi(_available(profile))} for it"
            )
        return DoesNotFitError(message, hint=self._nearest(profile, asked=asked))

    def _nearest(self, profile: Profile, *, asked: bool) -> str:
        """What would fit: a shorter context here, other bits here, or the smallest other device."""
        if self.asked_context is not None:
            planner = _Planner(self.model, self.tensors, self.floats, self.dims, self.kv_bits, None, self.adapters)
            shorter = planner.context(profile)
            if shorter:
                return f"a context of {shorter:,} tokens fits"
        if asked:
            tensors = tensor_plans(self.model)
            planner = _Planner(self.model, tensors, False, self.dims, 16, self.asked_context, self.adapters)
            if planner.context(profile) is not None:
                return "it fits with the planner's own choice of bits"
        others = [profiles.load(other) for other in profiles.names() if other != profile.name]
        fitting = [other for other in others if self.context(other) is not None]
        if not fitting:
            return "it fits none of the profiles, take a smaller model"
        nearest = min(fitting, key=_available)
        context = self.context(nearest)
        return f"it fits `{nearest.name}`" + (f" with a context of {context:,} tokens" if context else "")

    # The plan

    def plan(self, profile: Profile, context: int, reasons: list[str], *, kv_asked: bool) -> Plan:
        decoder, demand = self.model.decoder, self.demand
        threads = _threads(profile)
        variants, why_variants = _variants(profile, self.floats)
        kv = None
        if decoder is not None:
            reasons = [*reasons, self._why_context(profile, context)]
            why_kv = (
                "asked for" if kv_asked else "12 bits in 16: the cache then adds nothing to the error of activations"
            )
            kv = KVPlan(self.kv_bits, PAGE_TOKENS, why_kv)
        reasons = [*reasons, why_variants, f"at most {threads} threads: {query(profile, 'cpu.threads').source}"]
        if self.adapters is not None:
            size = f"{self.adapters.bytes / memory.MEBI:,.1f} MiB"
            reasons.append(f"{size} of memory for an adapter of rank {self.adapters.rank} at most: asked for")
        budget = query(profile, "budget.download")
        if demand.download > budget.value:
            size = size_text(demand.download)
            reasons.append(f"the download of {size} is above the profile's {budget.text} ({budget.source})")
        chunk = min(PREFILL_CHUNK, context)
        prediction = Prediction(
            download_bytes=demand.download,
            weight_bytes=demand.weights,
            kv_bytes=demand.cache(context),
            workspace_bytes=self.workspace(profile, context),
            peak_bytes=self.peak(profile, context),
            prefill_tokens_per_second=0.0,
            decode_tokens_per_second=0.0,
        )
        plan = Plan(
            model=self.model.facts.name,
            profile=profile.name,
            tensors=self.tensors,
            kv=kv,
            context_length=context,
            prefill_chunk=chunk,
            dims=dict(self.dims),
            max_threads=threads,
            variants=variants,
            activation_bits=32 if self.floats else 8,
            prediction=prediction,
            reasons=tuple(reasons),
            adapters=self.adapters,
        )
        plan.verify()
        return plan

    def _why_context(self, profile: Profile, context: int) -> str:
        assert self.model.decoder is not None
        if context < self.demand.limit:
            return f"context of {context:,} tokens: more does not fit into {_mebi(_available(profile))}"
        first = self.model.decoder.context_length
        if self.asked_context is not None:
            long = f", so all tokens rotate by the long factors (longrope, for more than {first:,})"
            return f"context of {context:,} tokens: asked for{long if context > first else ''}"
        if first <= DEFAULT_CONTEXT:
            if self.model.decoder.longrope is not None:
                return f"context of {context:,} tokens: for more all tokens would rotate by the long factors (longrope)"
            return f"context of {context:,} tokens: what the model was trained for"
        return f"context of {context:,} tokens: enough for a chat, the model could do more"


def _context_wanted(decoder: DecoderFacts, asked: int | None) -> tuple[int, int]:
    """Most and fewest tokens, multiples of 16 within what the model was trained for."""
    if asked is not None:
        longest = decoder.longest_context if asked > decoder.context_length else decoder.context_length
        wanted = min(longest // BLOCK_TOKENS, -(-asked // BLOCK_TOKENS)) * BLOCK_TOKENS
        return wanted, wanted
    longest = decoder.context_length // BLOCK_TOKENS * BLOCK_TOKENS
    return min(longest, DEFAULT_CONTEXT), min(longest, SHORTEST_CONTEXT)


def _available(profile: Profile) -> int:
    """Bytes that the wasm memory may have."""
    usable = int(query(profile, "memory.usable").value) - memory.PAGE_BYTES
    return min(usable, int(query(profile, "memory.wasm_maximum").value))


def _threads(profile: Profile) -> int:
    return int(query(profile, "cpu.threads").value) if query(profile, "features.threads").value else 1


def _variants(profile: Profile, floats: bool) -> tuple[tuple[str, ...], str]:
    relaxed, threads = query(profile, "features.relaxed_simd"), query(profile, "features.threads")
    if floats:
        why = "no relaxed SIMD: its dot products are of no use to float32"
    elif relaxed.value:
        why = f"relaxed SIMD, and plain SIMD for older engines: {relaxed.source}"
    else:
        why = f"no relaxed SIMD: {relaxed.source}"
    chosen = [
        variant
        for variant in VARIANTS
        if ((relaxed.value and not floats) or not variant.startswith("relaxed"))
        and (threads.value or not variant.endswith("-threads"))
    ]
    return tuple(chosen), why


def _mebi(size: int) -> str:
    return f"{size / memory.MEBI:,.0f} MiB"


__all__ = ["make_plan", "to_measure"]
