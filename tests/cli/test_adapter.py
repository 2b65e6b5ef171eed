"""`edgec adapter`, and what uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgec.pipeline import CompileOptions, compile_model
from tests.adapters import write_adapter
from tests.cli.conftest import Edgec

SHAPES = {"model.layers.0.self_attn.q_proj": (64, 64), "model.layers.1.mlp.up_proj": (96, 64)}


@pytest.fixture(scope="module")
def base(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base") / "base.edgec"
    compile_model(tiny_llama, "phone-4gb", out, CompileOptions(adapter_rank=6, quantizer="rtn"))
    return out


def test_it_is_made_and_used(edgec: Edgec, base: Path, working_folder: Path) -> None:
    write_adapter(working_folder / "pirate", SHAPES)
    made = edgec("adapter", "pirate", "--base", base, "--json")
    assert (made.code, made.stderr) == (0, "")
    size = (working_folder / "pirate.lora").stat().st_size
    assert json.loads(made.stdout) == {"adapter": "pirate.lora", "base": str(base), "bytes": size}
    first = (working_folder / "pirate.lora").read_bytes()
    assert edgec("adapter", "pirate", "--base", base, "-q").code == 0
    assert (working_folder / "pirate.lora").read_bytes() == first
    ask = ("run", base, "hello", "--temperature", "0", "--max-tokens", "4", "--json", "--hash-logits")
    hashes = [json.loads(edgec(*ask, *more).stdout)["logits_sha256"] for more in ((), ("--adapter", "pirate.lora"))]
    assert hashes[0] != hashes[1]
    assert "adapter" in edgec("inspect", base).stdout


def test_its_loss_is_measured(edgec: Edgec, base: Path, tiny_llama: Path, working_folder: Path) -> None:
    """Against the float model into which the same adapter was merged."""
    write_adapter(working_folder / "pirate", SHAPES)
    assert edgec("adapter", "pirate", "--base", base, "-q").code == 0
    (working_folder / "text.txt").write_text("Once upon a time there was a pirate. " * 8)
    ask = ("eval", base, tiny_llama, "--text", "text.txt", "--tokens", "64", "--json")
    both = ("--adapter", "pirate.lora", "--lora", "pirate")
    losses = [json.loads(edgec(*ask, *more).stdout)["kl_mean"] for more in (both, both[:2], both[2:])]
    assert losses[0] < 0.2 * min(losses[1:])


def test_what_is_wrong_is_said(
    edgec: Edgec, base: Path, tiny_bundle: Path, tiny_llama: Path, working_folder: Path
) -> None:
    write_adapter(working_folder / "wide", SHAPES, rank=9)
    wide = edgec("adapter", "wide", "--base", base)
    assert wide.code == 2 and "has the rank 16" in wide.stderr and "`--adapters 16`" in wide.stderr
    small = edgec("adapter", "wide", "--base", tiny_bundle)
    assert small.code == 2 and "no room for adapters" in small.stderr
    (working_folder / "notes.txt").write_text("mine")
    taken = edgec("adapter", "wide", "--base", base, "-o", "notes.txt")
    assert taken.code == 10 and (working_folder / "notes.txt").read_text() == "mine"
    unknown = edgec("run", tiny_bundle, "hello", "--adapter", "notes.txt")
    assert unknown.code == 4 and "no room for adapters" in unknown.stderr
    damaged = edgec("run", base, "hello", "--adapter", "notes.txt")
    assert damaged.code == 7 and "the adapter is invalid" in damaged.stderr
    absent = edgec("chat", base, "--adapter", "absent.lora")
    assert absent.code == 7 and "cannot be read" in absent.stderr
    slimmed = edgec("compile", tiny_llama, "-p", "phone-4gb", "--adapters", "8", "--slim", "0.5")
    assert slimmed.code == 2 and "whole model" in slimmed.stderr
    merged = edgec("compile", tiny_llama, "-p", "phone-4gb", "--lora", "absent")
    assert merged.code == 3 and "not a folder" in merged.stderr
