"""TIR kernels to a WebAssembly object file with a plain C ABI.

A kernel is a PrimFunc whose parameters are buffers and int32 scalars. Its C function takes one
pointer per buffer, the scalars in their order, then every free variable of the body in name order
(symbolic sizes), and, when the kernel has a `T.parallel` loop, `(tid, threads)` at the end: the
parallel loop runs its share of the iterations (SPMD), all threads call the same function.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.tirx.buffer import buffer_data_pointer_type, is_buffer_var

from edgec.ir.store import Store, key_of
from edgec.lower.wasm.target import Isa, wasm_target

PrimFunc = Any  # tvm's Python classes carry no types

_PARALLEL = "edgec.parallel"  # attribute of a function: whether threads share its loops
_STACK_LIMIT = 32768  # bytes a kernel may allocate on its stack

# A kernel with a parallel loop may use these, to find its own scratch buffer for instance.
THREAD = tirx.Var("tid", "int32")
THREADS = tirx.Var("threads", "int32")


@dataclass(frozen=True)
class Signature:
    """`parameters` in call order; `parallel` adds `(tid, threads)` after them."""

    parameters: tuple[str, ...]
    buffers: int
    parallel: bool


def _split_over_threads(func: PrimFunc) -> PrimFunc:
    """Give each thread a contiguous share of the outermost parallel loops.

    Before anything is simplified: of a loop of one turn only the body would be left, for every thread.
    """
    found = False

    def rewrite(loop: Any) -> Any:
        nonlocal found
        if loop.kind != tirx.ForKind.PARALLEL:
            return loop
        found = True
        extent = tirx.Cast("int32", loop.extent) if str(loop.extent.ty.dtype) != "int32" else loop.extent
        share = tirx.truncdiv(extent + THREADS - 1, THREADS)
        begin = tirx.min(THREAD * share, extent)
        count = tirx.min(share, extent - begin)
        dtype = str(loop.loop_var.ty.dtype)
        if dtype != "int32":
            begin, count = tirx.Cast(dtype, begin), tirx.Cast(dtype, count)
        return tirx.For(loop.loop_var, begin, count, tirx.ForKind.SERIAL, loop.body, None, loop.annotations)

    body = tvm_ffi.structural_map(func.body, (tirx.For, rewrite))
    return func.with_body(body).with_attr(_PARALLEL, found)


def _check_allocations(func: PrimFunc, name: str) -> None:
    total = 0

    def count(allocation: Any) -> Any:
        nonlocal total
        buffer = allocation.buffer
        dtype = tvm.runtime.DataType(str(buffer.dtype))
        size = dtype.bits * dtype.lanes // 8
        for extent in buffer.shape:
            if not isinstance(extent, tirx.IntImm):
                raise ValueError(f"kernel `{name}` allocates a buffer of symbolic size, pass a scratch buffer instead")
            size *= int(extent)
        total += size
        return allocation

    tvm_ffi.structural_map(func.body, (tirx.AllocBuffer, count))
    if total > _STACK_LIMIT:
        raise ValueError(f"kernel `{name}` needs {total} bytes of stack, more than {_STACK_LIMIT}")


def _plain(name: str, func: PrimFunc) -> tuple[PrimFunc, Signature]:
    thread_parameters = (THREAD, THREADS) if func.attrs[_PARALLEL] else ()
    _check_allocations(func, name)
    parameters: list[Any] = []
    declarations: list[Any] = []
    buffers = 0
    for parameter in func.params:
        if is_buffer_var(parameter):
            pointer = tirx.Var(f"{parameter.name}_pointer", buffer_data_pointer_type(parameter))
            parameters.append(pointer)
            declarations.append(tirx.DeclBuffer(parameter, data=pointer))
            buffers += 1
        else:
            parameters.append(parameter)
    body = tirx.SeqStmt([*declarations, func.body]) if declarations else func.body
    known = [*parameters, *thread_parameters]
    free = sorted(tirx.analysis.undefined_vars(body, known), key=lambda variable: str(variable.name))
    parameters += free
    # A void function would not survive the lowering of parallel loops.
    body = tirx.SeqStmt([body, tirx.stmt.Return(tirx.const(0, "int32"))])
    attributes = {**dict(func.attrs), "global_symbol": name}
    plain = tirx.PrimFunc([*parameters, *thread_parameters], body, tvm.ir.PrimType("int32")).with_attrs(attributes)
    names = tuple(str(parameter.name) for parameter in parameters)
    return plain, Signature(names, buffers, bool(thread_parameters))


def _without_fma(func: PrimFunc) -> PrimFunc:
    """LowerIntrin turns `a * b + c` into llvm.fmuladd, which relaxed SIMD rounds once and plain SIMD twice."""
    fused = tvm.get_global_func("target.llvm_lookup_intrinsic_id")("llvm.fmuladd")
    intrinsic = tvm.ir.Op.get("tirx.call_llvm_pure_intrin")

    def rewrite(call: Any) -> Any:
        if not call.op.same_as(intrinsic) or int(call.args[0]) != fused:
            return call
        a, b, c = call.args[1:]
        return tirx.Add(tirx.Mul(a, b), c)

    return func.with_body(tvm_ffi.structural_map(func.body, (tvm.ir.Call, rewrite)))


@tvm.transform.module_pass(opt_level=0)
def _shared_by_threads(module: Any, _context: Any) -> Any:
    return tvm.IRModule({v: _split_over_threads(f) for v, f in module.functions.items()}, attrs=module.attrs)


@tvm.transform.module_pass(opt_level=0)
def _strict_arithmetic(module: Any, _context: Any) -> Any:
    return tvm.IRModule({v: _without_fma(f) for v, f in module.functions.items()}, attrs=module.attrs)


def _passes(signatures: dict[str, Signature]) -> list[Any]:
    """TVM's s_tir host pipeline with our C ABI where MakePackedAPI stands.

    Left out are passes that take a third of the time and change no byte of our kernels
    (CompactBufferAllocation, HoistIfThenElse), and those for GPUs.
    """

    @tvm.transform.module_pass(opt_level=0)
    def make_plain_abi(module: Any, _context: Any) -> Any:
        functions = {}
        for variable, func in module.functions.items():
            functions[variable], signatures[variable.name_hint] = _plain(variable.name_hint, func)
        return tvm.IRModule(functions, attrs=module.attrs)

    s, t = s_tir.transform, tirx.transform
    return [
        _shared_by_threads,
        s.CanonicalizeLoop(),
        s.LowerInitBlock(),
        s.PlanAndUpdateBufferAllocationLocation(),
        s.ConvertBlocksToOpaque(),
        s.LowerMatchBuffer(),
        s.StmtSimplify(),
        s.LowerOpaqueBlock(),
        t.FlattenBuffer(),
        t.BF16ComputeLegalize(),
        t.NarrowDataType(32),
        s.LoopPartition(),
        t.VectorizeLoop(True),
        t.UnrollLoop(),
        s.RenormalizeSplitPattern(),
        t.StmtSimplify(),
        t.RemoveNoOp(),
        s.RewriteUnsafeSelect(),
        t.VerifyMemory(),
        t.AnnotateEntryFunc(),
        make_plain_abi,
        t.BF16StorageLegalize(),
        t.LowerTVMBuiltin(),
        t.LowerIntrin(),
        _strict_arithmetic,
    ]


def compile_kernels(
    kernels: Mapping[str, PrimFunc], isa: Isa, store: Store | None = None
) -> tuple[bytes, dict[str, Signature]]:
    """Compile `kernels` (name -> PrimFunc) to one wasm object file and the signatures of its functions.

    What `store` has of the same kernels is taken from there.
    """
    if store is None:
        return _compile(kernels, isa)
    # The text has all but the last bits of constants, the hash has those.
    texts = [[name, tvm_ffi.structural_hash(f, map_free_vars=True), f.script()] for name, f in kernels.items()]
    key = key_of("kernels", isa.name, texts)
    kept = store.load(key)
    if kept is not None:
        try:
            return kept["object"].tobytes(), _read_signatures(kept["signatures"].tobytes(), kernels)
        except (KeyError, TypeError, ValueError):
            store.refuse(key)
    compiled, signatures = _compile(kernels, isa)
    listed = {name: dataclasses.astuple(signature) for name, signature in signatures.items()}
    parts = {"object": compiled, "signatures": json.dumps(listed).encode()}
    store.save(key, {name: np.frombuffer(content, np.uint8) for name, content in parts.items()})
    return compiled, signatures


def _read_signatures(content: bytes, kernels: Mapping[str, PrimFunc]) -> dict[str, Signature]:
    read = {name: Signature(tuple(p), int(b), bool(parallel)) for name, (p, b, parallel) in json.loads(content).items()}
    if read.keys() != kernels.keys():
        raise ValueError("signatures of other kernels")
    return read


def _compile(kernels: Mapping[str, PrimFunc], isa: Isa) -> tuple[bytes, dict[str, Signature]]:
    target = wasm_target(isa)
    module = tvm.IRModule({name: func.with_attr("global_symbol", name) for name, func in kernels.items()})
    module = tirx.transform.BindTarget(target.with_host(target))(module)
    signatures: dict[str, Signature] = {}
    module = tvm.ir.transform.Sequential(_passes(signatures))(module)
    library = tvm.get_global_func("target.build.llvm")(module, target)
    with TemporaryDirectory() as directory:
        path = Path(directory) / "kernels.o"
        library.write_to_file(str(path), "o")
        return path.read_bytes(), signatures
