"""Damaged and hostile bundles, each with the verdict that every verifier must give.

`python -m tests.attacks.damaged_bundles DIR` writes `DIR/<case>.edgec` for each case and
`DIR/expected.json`: a list of {"case", "code" (null: sound), "why", "disk_only"}. The JavaScript
loader runs the same list; `disk_only` cases need a directory listing, which a web server does not give.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.run.fake_module import write_fake_bundle

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Case:
    name: str
    code: str | None
    why: str
    damage: Callable[[Path], None]
    disk_only: bool = False
    kind: str = "decoder"  # of the bundle that is damaged, see `fake_module`


CASES: list[Case] = []


def case(name: str, code: str | None, why: str, *, disk_only: bool = False) -> Callable[..., Callable[[Path], None]]:
    """Registers a function that damages the bundle at a path."""

    def register(damage: Callable[[Path], None]) -> Callable[[Path], None]:
        CASES.append(Case(name, code, why, damage, disk_only))
        return damage

    return register


def field(
    name: str, code: str | None, why: str, change: Callable[[Manifest], object], *, kind: str = "decoder"
) -> None:
    """Registers a change of the parsed manifest."""

    def damage(root: Path) -> None:
        manifest = json.loads((root / "manifest.json").read_bytes())
        change(manifest)
        (root / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")

    CASES.append(Case(name, code, why, damage, kind=kind))


def text(name: str, code: str | None, why: str, change: Callable[[str], str]) -> None:
    """Registers a change of the manifest's text."""

    def damage(root: Path) -> None:
        file = root / "manifest.json"
        file.write_bytes(change(file.read_text()).encode("utf-8", "surrogatepass"))

    CASES.append(Case(name, code, why, damage))


def weight_file(root: Path) -> Path:
    return next((root / "weights").iterdir())


def put(*path: str | int, value: Any) -> Callable[[Manifest], None]:
    """A change that sets one value."""

    def change(manifest: Manifest) -> None:
        place: Any = manifest
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


def drop(*path: str | int) -> Callable[[Manifest], None]:
    def change(manifest: Manifest) -> None:
        place: Any = manifest
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]

    return change


def step(index: int) -> list[str | int]:
    return ["golden", "steps", index]


def computed(name: str, code: str | None, why: str, *numbers: Any) -> None:
    """Registers a graph whose module computes `numbers` while it runs."""

    def damage(root: Path) -> None:
        shutil.rmtree(root)
        write_fake_bundle(root, kind="graph")
        manifest = json.loads((root / "manifest.json").read_bytes())
        place = manifest["memory"]["workspace"]["offset"] + 4096
        manifest["computed"] = [
            {"offset": place, **number} if isinstance(number, dict) else number for number in numbers
        ]
        if code is None:
            manifest["outputs"][1]["shape"] = ["kept.dim0"]
        (root / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")

    CASES.append(Case(name, code, why, damage))


def room(name: str, code: str | None, why: str, change: Callable[[Manifest], object]) -> None:
    """Registers a decoder with room for adapters behind its weights, changed."""

    def damage(root: Path) -> None:
        manifest = json.loads((root / "manifest.json").read_bytes())
        memory = manifest["memory"]
        start = -(-(memory["weights"]["offset"] + memory["weights"]["bytes"]) // 64) * 64
        memory["weights"]["bytes"] = start + 4096 - memory["weights"]["offset"]
        memory["kv"]["offset"] += 8192
        sizes = {"rows": 10, "columns": 12}
        manifest["adapters"] = {
            "base": "a" * 64,
            "rank": 8,
            "switch": start,
            "linears": [
                {"name": "q_proj", **sizes, "scales": start + 64, "down": start + 128, "up": start + 320},
                {"name": "k_proj", **sizes, "scales": start + 1024, "down": start + 1088, "up": start + 1280},
            ],
        }
        change(manifest)
        (root / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")

    CASES.append(Case(name, code, why, damage))


def exits(name: str, code: str | None, why: str, change: Callable[[Manifest], object]) -> None:
    """Registers a decoder whose manifest says that it has early exits, changed."""

    def damage(root: Path) -> None:
        manifest = json.loads((root / "manifest.json").read_bytes())
        measured = {"agreement": 0.5, "share": 0.25, "tokens": 9}
        manifest["exits"] = [{"layer": 2, "threshold": 0.5, **measured}, {"layer": 3, "threshold": None, **measured}]
        for start in (0, 2, 3):
            manifest["entry_points"][f"layers_{start}"] = ["n", "position"]
        for layer in (2, 3):
            manifest["entry_points"] |= {f"exit_{layer}": ["row"], f"fill_{layer}": ["n", "position"]}
        change(manifest)
        (root / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")

    CASES.append(Case(name, code, why, damage))


def depths(name: str, code: str | None, why: str, change: Callable[[Manifest], object]) -> None:
    """Registers a decoder whose manifest says that its file is for 4 bits, and with other targets for 3, changed."""

    def damage(root: Path) -> None:
        manifest = json.loads((root / "manifest.json").read_bytes())
        manifest["depths"] = [{"bits": 3, "golden": manifest["golden"]}]
        (file,) = manifest["weights"]
        manifest["weights"] = [{**file, "depths": [4]}, {**file, "depths": [3]}]
        change(manifest)
        (root / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")

    CASES.append(Case(name, code, why, damage))


def moved(part: str, by: int) -> Callable[[Manifest], None]:
    """An address of the second linear, `by` bytes from where it was."""

    def change(manifest: Manifest) -> None:
        manifest["adapters"]["linears"][1][part] += by

    return change


# --- nothing wrong -----------------------------------------------------------------------------------------

text("sound", None, "the bundle as it was written", lambda t: t)
text("sound-not-canonical", None, "readers do not ask for the canonical form", lambda t: json.dumps(json.loads(t)))
text("sound-whole-float", None, "1.0 is an integer in JSON", lambda t: t.replace('"version": 1', '"version": 1.0'))
field("sound-unknown-task", None, "unknown tasks mean tensors in, tensors out", put("task", value={"type": "sing"}))
field(
    "sound-free-objects", None, "plan, accuracy and generation may hold anything", put("accuracy", value={"é": [1e300]})
)
field(
    "sound-no-chat-template", None, "a tokenizer needs no chat template", put("tokenizer", "chat_template", value=None)
)


# --- the manifest as a file --------------------------------------------------------------------------------


@case("manifest-missing", "file-missing", "a directory without a manifest is no bundle")
def _(root: Path) -> None:
    (root / "manifest.json").unlink()


@case("manifest-empty", "manifest-invalid", "a download that broke off at once")
def _(root: Path) -> None:
    (root / "manifest.json").write_bytes(b"")


@case("manifest-zeros", "manifest-invalid", "a file system that lost the content keeps the length")
def _(root: Path) -> None:
    file = root / "manifest.json"
    file.write_bytes(bytes(file.stat().st_size))


@case("manifest-1gb", "manifest-invalid", "a manifest of 1 GB must not be read into memory")
def _(root: Path) -> None:
    os.truncate(root / "manifest.json", 1 << 30)


@case("manifest-html", "manifest-invalid", "servers answer with a page instead of the file")
def _(root: Path) -> None:
    (root / "manifest.json").write_text("<!doctype html><title>Not found</title>")


@case("manifest-link", "file-unexpected", "a link could lead out of the bundle", disk_only=True)
def _(root: Path) -> None:
    (root / "manifest.json").rename(root.parent / f"{root.name}.outside.json")
    (root / "manifest.json").symlink_to(root.parent / f"{root.name}.outside.json")


text("manifest-truncated", "manifest-invalid", "half a download", lambda t: t[: len(t) // 2])
text("manifest-padded", "manifest-invalid", "more than 16 MiB, though only blanks", lambda t: t + " " * (16 << 20))
text(
    "manifest-not-utf8",
    "manifest-invalid",
    "UTF-8 has no lone surrogates",
    lambda t: t.replace("fake-decoder", "\ud800"),
)
text("manifest-byte-order-mark", "manifest-invalid", "JSON has no byte order mark", lambda t: "\ufeff" + t)
text("manifest-two-documents", "manifest-invalid", "JSON is one value", lambda t: t + t)
text("manifest-comment", "manifest-invalid", "JSON has no comments", lambda t: "// hi\n" + t)
text("manifest-trailing-comma", "manifest-invalid", "JSON has none", lambda t: t.rstrip()[:-1] + ",}")
text(
    "manifest-control-character",
    "manifest-invalid",
    "JSON strings have none",
    lambda t: t.replace("fake-decoder", "a\nb"),
)
text("manifest-list", "manifest-invalid", "the root is an object", lambda t: f"[{t}]")
text("manifest-null", "manifest-invalid", "the root is an object", lambda t: "null")
text(
    "manifest-deep-100000",
    "manifest-invalid",
    "deep nesting must not overflow a stack",
    lambda t: "[" * 100000 + "]" * 100000,
)
text(
    "manifest-deep-in-plan",
    "manifest-invalid",
    "free objects are limited too",
    lambda t: t.replace('"accuracy": {}', '"accuracy": {"a": ' + "[" * 63 + "]" * 63 + "}"),
)
text(
    "sound-nested-64",
    None,
    "64 levels are allowed: root, accuracy and 62 lists",
    lambda t: t.replace('"accuracy": {}', '"accuracy": ' + '{"a":' * 30 + "[" * 33 + "]" * 33 + "}" * 30),
)
text(
    "manifest-key-twice",
    "manifest-invalid",
    "two readers could see two values",
    lambda t: t.replace('"prefill_chunk": 8', '"prefill_chunk": 8, "prefill_chunk": 8'),
)
text(
    "manifest-key-twice-escaped",
    "manifest-invalid",
    "an escape makes the same key",
    lambda t: t.replace('"prefill_chunk": 8', '"prefill_chunk": 8, "prefill\\u005fchunk": 8'),
)
text(
    "manifest-key-twice-deep",
    "manifest-invalid",
    "in free objects too",
    lambda t: t.replace('"accuracy": {}', '"accuracy": {"a": [{"b": 1, "b": 2}]}'),
)
text(
    "manifest-nan",
    "manifest-invalid",
    "NaN is not JSON",
    lambda t: t.replace('"temperature": 0.7', '"temperature": NaN'),
)
text(
    "manifest-infinity",
    "manifest-invalid",
    "Infinity is not JSON",
    lambda t: t.replace('"accuracy": {}', '"accuracy": {"a": Infinity}'),
)
text(
    "manifest-number-overflows",
    "manifest-invalid",
    "1e999 is infinite",
    lambda t: t.replace('"temperature": 0.7', '"temperature": 1e999'),
)
text(
    "manifest-many-digits",
    "manifest-invalid",
    "parsing 5000 digits must not fail oddly",
    lambda t: t.replace('"prefill_chunk": 8', '"prefill_chunk": ' + "9" * 5000),
)
text(
    "sound-many-digits-in-accuracy",
    None,
    "numbers of free objects are not looked at",
    lambda t: t.replace('"accuracy": {}', '"accuracy": {"a": ' + "9" * 5000 + "}"),
)
text(
    "manifest-number-leading-zero",
    "manifest-invalid",
    "JSON has none",
    lambda t: t.replace('"prefill_chunk": 8', '"prefill_chunk": 08'),
)

# --- format and version ------------------------------------------------------------------------------------

field("format-other", "manifest-invalid", "another tool's manifest", put("format", value="mlc"))
field("format-missing", "manifest-invalid", "another tool's manifest", drop("format"))
field("version-2", "version-unsupported", "the future", put("version", value=2))
field("version-0", "version-unsupported", "the past", put("version", value=0))
field("version-text", "manifest-invalid", "a version is an integer", put("version", value="1"))
field("version-fraction", "manifest-invalid", "a version is an integer", put("version", value=1.5))
field("version-true", "manifest-invalid", "true is not 1", put("version", value=True))


def _future(manifest: Manifest) -> None:
    manifest.clear()
    manifest.update(format="edgec-bundle", version=2, anything=[])


field("version-2-with-other-fields", "version-unsupported", "the version is checked before the fields", _future)

# --- golden outputs ----------------------------------------------------------------------------------------

field("sound-no-golden", None, "not every graph has golden outputs", put("golden", value=None))
field("sound-golden-not-finite", None, "a logit may be infinite", put(*step(0), "largest", 0, "logit", value=None))
field("sound-golden-other", None, "what it says is a matter of running", put(*step(0), "sha256", value="0" * 64))
field("golden-missing", "manifest-invalid", "every field is needed", drop("golden"))
field("golden-list", "manifest-invalid", "an object or null", put("golden", value=[]))
field("golden-of-a-graph", "manifest-invalid", "this is a decoder", put("golden", value={"dims": {}, "outputs": []}))
field("golden-unknown-field", "manifest-invalid", "nothing else is allowed", put("golden", "extra", value=1))
field("golden-no-prompt", "manifest-invalid", "logits are those after a token", put("golden", "prompt", value=[]))
field("golden-long-prompt", "manifest-invalid", "more than the context", put("golden", "prompt", value=[1] * 127))
field("sound-golden-full-context", None, "the last step needs no room", put("golden", "prompt", value=[1] * 126))
field("golden-token-outside", "manifest-invalid", "beyond the vocabulary", put("golden", "prompt", 0, value=264))
field("golden-token-negative", "manifest-invalid", "an index", put("golden", "prompt", 0, value=-1))
field("golden-token-text", "manifest-invalid", "an id is an integer", put("golden", "prompt", 0, value="1"))
field("golden-no-steps", "manifest-invalid", "nothing would be tested", put("golden", "steps", value=[]))
field(
    "golden-many-steps",
    "manifest-invalid",
    "a self-test is short",
    lambda manifest: manifest["golden"]["steps"].extend(manifest["golden"]["steps"] * 5),
)
field("golden-hash-upper", "manifest-invalid", "hashes are lower-case", put(*step(1), "sha256", value="A" * 64))
field("golden-hash-missing", "manifest-invalid", "every field is needed", drop(*step(1), "sha256"))
field("golden-no-logits", "manifest-invalid", "the next token is the first", put(*step(2), "largest", value=[]))
field("golden-next-outside", "manifest-invalid", "it is decoded", put(*step(0), "largest", 0, "token", value=264))
field("golden-logit-text", "manifest-invalid", "a number", put(*step(0), "largest", 0, "logit", value="1"))
field("golden-prototype", "manifest-invalid", "names that objects inherit", put("golden", "__proto__", value={}))

# --- types and bounds --------------------------------------------------------------------------------------

field("field-missing", "manifest-invalid", "every field is needed", drop("generation"))
field("field-unknown", "manifest-invalid", "nothing else is allowed", put("extra", value=1))
field("field-unknown-in-memory", "manifest-invalid", "nothing else is allowed", put("memory", "extra", value=1))
field("field-of-prototype", "manifest-invalid", "names that JavaScript objects inherit", put("__proto__", value={}))
field("name-empty", "manifest-invalid", "a model has a name", put("model", "name", value=""))
field("kind-unknown", "manifest-invalid", "decoder or graph", put("model", "kind", value="agent"))
field("kind-list", "manifest-invalid", "a list is no string", put("model", "kind", value=["decoder"]))
field("kind-graph-with-cache", "manifest-invalid", "a graph has no cache", put("model", "kind", value="graph"))

# --- numbers that a module computes ------------------------------------------------------------------------

computed("sound-computed", None, "an output as long as the module says", {"name": "kept.dim0", "bound": 16})
computed("computed-empty", "manifest-invalid", "then it is left out")
computed("computed-no-object", "manifest-invalid", "a name is not enough", "kept.dim0")
computed("computed-twice", "manifest-invalid", "names are unique", *[{"name": "k.dim0", "bound": 1}] * 2)
computed("computed-is-a-dim", "manifest-invalid", "an input gives that one", {"name": "batch", "bound": 1})
computed("computed-name", "manifest-invalid", "no expression", {"name": "a+b", "bound": 1})
computed("computed-negative", "manifest-invalid", "a size", {"name": "k.dim0", "bound": -1})
computed("computed-unbounded", "manifest-invalid", "int32", {"name": "k.dim0", "bound": 2**31})
computed("computed-unaligned", "manifest-invalid", "an int32", {"name": "k.dim0", "bound": 1, "offset": 1118210})
computed("computed-outside", "manifest-invalid", "not in the workspace", {"name": "k.dim0", "bound": 1, "offset": 64})
computed("computed-extra", "manifest-invalid", "nothing else is allowed", {"name": "k.dim0", "bound": 1, "why": ""})
field("computed-decoder", "manifest-invalid", "a decoder computes ids", put("computed", value=[]))

# --- early exits -------------------------------------------------------------------------------------------

exits("exits-empty", "manifest-invalid", "then it is left out", put("exits", value=[]))
exits("exits-order", "manifest-invalid", "in the order of their layers", put("exits", 1, "layer", value=2))
exits("exits-layer", "manifest-invalid", "after the first layer at least", put("exits", 0, "layer", value=0))
exits("exits-threshold", "manifest-invalid", "a probability", put("exits", 0, "threshold", value=1.5))
exits("exits-share", "manifest-invalid", "a share", put("exits", 0, "share", value=-0.1))
exits("exits-tokens", "manifest-invalid", "measured on something", put("exits", 0, "tokens", value=0))
exits("exits-extra", "manifest-invalid", "nothing else is allowed", put("exits", 0, "why", value=""))
exits("exits-no-entry", "manifest-invalid", "it is an entry point", drop("entry_points", "fill_3"))
exits("exits-no-start", "manifest-invalid", "layers before the first", drop("entry_points", "layers_0"))
field("exits-graph", "manifest-invalid", "decoders alone", put("exits", value=[]), kind="graph")

# --- depths of nested codes --------------------------------------------------------------------------------

depths("sound-depths", None, "both depths write to the same bits, each has one file", lambda manifest: None)
depths("sound-depths-null", None, "nothing to compare with", put("depths", 0, "golden", value=None))
depths("depths-overlap", "manifest-invalid", "both files at 4 bits", drop("weights", 1, "depths"))
depths("depths-empty", "manifest-invalid", "then it is left out", put("depths", value=[]))
depths("depths-missing", "manifest-invalid", "files of depths that are not there", drop("depths"))
depths("depths-all", "manifest-invalid", "all bits are no depth of their own", put("depths", 0, "bits", value=4))
depths("depths-few", "manifest-invalid", "one bit is too few", put("depths", 0, "bits", value=1))
depths("depths-extra", "manifest-invalid", "nothing else is allowed", put("depths", 0, "why", value=""))
depths("depths-golden", "manifest-invalid", "a decoder's", put("depths", 0, "golden", "prompt", value=[]))
depths("depths-twice", "manifest-invalid", "each once", lambda m: m["depths"].append(m["depths"][0]))
depths(
    "depths-order",
    "manifest-invalid",
    "the finest first",
    lambda m: m["depths"].insert(0, {"bits": 2, "golden": None}),
)
depths("depths-of-file-all", "manifest-invalid", "then they are left out", put("weights", 0, "depths", value=[4, 3]))
depths("depths-of-file-none", "manifest-invalid", "a file for nobody", put("weights", 0, "depths", value=[]))
depths("depths-of-file-unknown", "manifest-invalid", "there is no such depth", put("weights", 0, "depths", value=[2]))
depths("depths-of-file-twice", "manifest-invalid", "each once", put("weights", 0, "depths", value=[4, 4]))
depths("depths-of-file-type", "manifest-invalid", "a list", put("weights", 0, "depths", value=4))

# --- room for adapters -------------------------------------------------------------------------------------

room("sound-adapters", None, "room behind the weights", lambda manifest: None)
room("adapters-none", "manifest-invalid", "then it is left out", put("adapters", "linears", value=[]))
room("adapters-null", "manifest-invalid", "then it is left out", put("adapters", value=None))
room("adapters-extra", "manifest-invalid", "nothing else is allowed", put("adapters", "why", value=""))
room("adapters-no-base", "manifest-invalid", "every field is needed", drop("adapters", "base"))
room("adapters-base", "manifest-invalid", "a hash", put("adapters", "base", value="a"))
room("adapters-rank", "manifest-invalid", "ranks are multiples of 8", put("adapters", "rank", value=12))
room("adapters-rank-large", "manifest-invalid", "at most 256", put("adapters", "rank", value=264))
room("adapters-twice", "manifest-invalid", "names are unique", put("adapters", "linears", 1, "name", value="q_proj"))
room("adapters-name", "manifest-invalid", "plain names", put("adapters", "linears", 1, "name", value="q/proj"))
room("adapters-no-rows", "manifest-invalid", "a size", put("adapters", "linears", 1, "rows", value=0))
room(
    "adapters-rows",
    "manifest-invalid",
    "it would reach past the region",
    put("adapters", "linears", 1, "rows", value=9999),
)
room("adapters-overlap", "manifest-invalid", "one over the other", moved("down", -64))
room("adapters-on-weights", "manifest-invalid", "weights are there", moved("up", -2048))
room("adapters-unaligned", "manifest-invalid", "as weights are", moved("scales", 4))
room("adapters-switch", "manifest-invalid", "in no region of weights", put("adapters", "switch", value=64))
field("adapters-graph", "manifest-invalid", "decoders alone", put("adapters", value={}), kind="graph")

field("source-hash-upper", "manifest-invalid", "hashes are lower-case", put("model", "source_sha256", value="A" * 64))
field("parameters-negative", "manifest-invalid", "a count", put("model", "parameters", value=-1))
field("parameters-unsafe", "manifest-invalid", "JavaScript cannot hold it", put("model", "parameters", value=2**53))
field(
    "region-unaligned",
    "manifest-invalid",
    "regions are 64-byte aligned",
    put("memory", "weights", "offset", value=1118209),
)
field(
    "region-overlap",
    "manifest-invalid",
    "weights would overwrite activations",
    put("memory", "workspace", "bytes", value=(1 << 20) + 64),
)
field("region-negative", "manifest-invalid", "an address", put("memory", "static", "offset", value=-64))
field("region-fraction", "manifest-invalid", "an address is whole", put("memory", "static", "bytes", value=0.5))
field("region-text", "manifest-invalid", "an address is a number", put("memory", "static", "bytes", value="1024"))
field("region-true", "manifest-invalid", "true is not 1", put("memory", "static", "bytes", value=True))
field("region-null", "manifest-invalid", "an address is a number", put("memory", "static", "bytes", value=None))
field("region-huge", "manifest-invalid", "beyond 4 GiB", put("memory", "kv", "bytes", value=2**40))
field("region-beyond-memory", "manifest-invalid", "the memory ends before", put("memory", "maximum_bytes", value=65536))
field("memory-5gb", "manifest-invalid", "wasm32 ends at 4 GiB", put("memory", "maximum_bytes", value=5 << 30))
field("memory-not-in-pages", "manifest-invalid", "whole pages", put("memory", "maximum_bytes", value=1441793))
field("workspace-small", "manifest-invalid", "staging needs 1 MiB", put("memory", "workspace", "bytes", value=1024))
field("stacks-small", "manifest-invalid", "every thread has a stack", put("memory", "max_threads", value=5))
field("threads-1000", "manifest-invalid", "at most 64", put("memory", "max_threads", value=1000))
field("stack-unaligned", "manifest-invalid", "stacks are 16-byte aligned", put("memory", "stack_bytes", value=1025))
field("modules-without-simd128", "manifest-invalid", "the fallback is always there", drop("modules", "simd128"))
field("modules-unknown", "manifest-invalid", "six variants exist", put("modules", "avx", value="module.avx.wasm"))
field(
    "modules-outside", "manifest-invalid", "a path out of the bundle", put("modules", "simd128", value="../evil.wasm")
)
field(
    "modules-swapped",
    "manifest-invalid",
    "each variant has its file",
    put("modules", "simd128", value="module.relaxed.wasm"),
)
field(
    "modules-absolute-url",
    "manifest-invalid",
    "code from elsewhere",
    put("modules", "simd128", value="https://example.com/a.wasm"),
)
field("entry-missing", "manifest-invalid", "a decoder decodes", drop("entry_points", "decode"))
field("entry-parameters", "manifest-invalid", "the ABI fixes them", put("entry_points", "decode", value=[]))
field("entry-name", "manifest-invalid", "export names are plain", put("entry_points", "a b", value=[]))


def graphs(name: str, code: str | None, why: str, change: Callable[[Manifest], object]) -> None:
    """Registers a change of the model with the graphs `run` and `total`."""
    field(f"graphs-{name}", code, why, change, kind="graphs")


graphs("sound", None, "two graphs in a bundle", lambda m: None)
graphs(
    "shared-slots",
    None,
    "graphs may share inputs and outputs",
    lambda m: (
        put("graphs", "run", value={"inputs": ["x", "word"], "outputs": ["y", "z", "sum"]})(m),
        m["golden"]["outputs"].append(m["golden"]["outputs"][0]),
    ),
)
graphs("golden-too-few", "manifest-invalid", "one for each output", lambda m: m["golden"]["outputs"].pop())
graphs("empty", "manifest-invalid", "a model is at least one graph", put("graphs", value={}))
graphs(
    "missing",
    "manifest-invalid",
    "one graph is called `run`",
    lambda m: (m.pop("graphs"), m["entry_points"].pop("run")),
)
graphs("list", "manifest-invalid", "an object", put("graphs", value=[]))
graphs("null", "manifest-invalid", "it is left out, not null", put("graphs", value=None))
graphs("without-entry", "manifest-invalid", "nothing to call", drop("entry_points", "total"))
graphs("unknown-input", "manifest-invalid", "no slot of this name", put("graphs", "total", "inputs", value=["z"]))
graphs("unknown-output", "manifest-invalid", "no slot of this name", put("graphs", "total", "outputs", value=["word"]))
graphs("twice", "manifest-invalid", "a name once", put("graphs", "total", "inputs", value=["word", "word"]))
graphs("unused-input", "manifest-invalid", "nothing would read it", put("graphs", "total", "inputs", value=[]))
graphs("unused-output", "manifest-invalid", "nothing writes it", put("graphs", "run", "outputs", value=["y"]))
graphs("no-output", "manifest-invalid", "it would be of no use", put("graphs", "total", "outputs", value=[]))
graphs("field-unknown", "manifest-invalid", "nothing else is allowed", put("graphs", "total", "extra", value=1))
graphs("field-missing", "manifest-invalid", "both are needed", drop("graphs", "total", "inputs"))
graphs("parameter-unknown", "manifest-invalid", "a name of `dims`", put("entry_points", "total", value=["n"]))
graphs("parameter-twice", "manifest-invalid", "each once", put("entry_points", "run", value=["batch", "batch"]))
graphs("dimension-unbound", "manifest-invalid", "the shape of `x` needs it", put("entry_points", "run", value=[]))


def speech(name: str, code: str | None, why: str, change: Callable[[Manifest], object]) -> None:
    """Registers a change of the speech model."""
    field(f"speech-{name}", code, why, change, kind="speech")


speech("sound", None, "an encoder, a decoder and a tokenizer", lambda m: None)
speech("other-task", None, "tensors in, tensors out", put("task", value={"type": "sing"}))
for entry in ("encode", "decode"):
    speech(
        f"without-{entry}",
        "manifest-invalid",
        "a graph that transcribing calls",
        lambda m, entry=entry: (  # type: ignore[misc]
            m["graphs"].__setitem__("other", m["graphs"].pop(entry)),
            m["entry_points"].__setitem__("other", m["entry_points"].pop(entry)),
        ),
    )
speech(
    "input-renamed",
    "manifest-invalid",
    "the encoder reads `audio`",
    put("graphs", "encode", "inputs", value=["tokens"]),
)
speech("audio-type", "manifest-invalid", "samples are float32", put("inputs", 0, "dtype", value="int32"))
speech("audio-fixed", "manifest-invalid", "as long as the sound", put("inputs", 0, "shape", value=[1, 8000]))
speech("tokens-type", "manifest-invalid", "an int64 is written there", put("inputs", 1, "dtype", value="float64"))
speech("tokens-many", "manifest-invalid", "one id at a time", put("inputs", 1, "shape", value=[1, "past"]))
speech("logits-type", "manifest-invalid", "they are compared", put("outputs", 1, "dtype", value="int32"))
speech("logits-rows", "manifest-invalid", "of one id", put("outputs", 1, "shape", value=[1, 2, 132]))
speech("decode-parameters", "manifest-invalid", "the ids before", put("entry_points", "decode", value=["samples"]))
speech(
    "no-tokenizer",
    "manifest-invalid",
    "text is wanted",
    lambda m: (m.update(tokenizer=None), m["files"].pop("tokenizer.json")),
)
speech("rate-zero", "manifest-invalid", "a division by zero", put("task", "sample_rate", value=0))
speech("rate-fraction", "manifest-invalid", "an integer", put("task", "sample_rate", value=8000.5))
speech("window-long", None, "longer than the input holds: it is shortened", put("task", "window_seconds", value=1.5))
speech("window-huge", "manifest-invalid", "more than an hour", put("task", "window_seconds", value=1e9))
speech("least-beyond-input", "manifest-invalid", "silence would overwrite memory", put("dims", "samples", value=799))
speech("window-zero", "manifest-invalid", "it would never end", put("task", "window_seconds", value=0))
speech("least-above-window", "manifest-invalid", "beyond the input's memory", put("task", "min_seconds", value=0.6))
speech("least-negative", "manifest-invalid", "a time", put("task", "min_seconds", value=-1))
speech("tokens-many-more", None, "more than the cache holds: fewer are said", put("task", "max_tokens", value=2500))
speech("tokens-zero", "manifest-invalid", "nothing to say", put("task", "max_tokens", value=0))
speech(
    "rate-of-tokens-zero", "manifest-invalid", "nothing would be said", put("task", "max_tokens_per_second", value=0)
)
speech("start-empty", "manifest-invalid", "nothing to begin with", put("task", "start_ids", value=[]))
speech("start-outside", "manifest-invalid", "beyond the vocabulary", put("task", "start_ids", value=[264]))
speech("suppress-outside", "manifest-invalid", "beyond the vocabulary", put("task", "suppress_ids", value=[264]))
speech("suppress-sound", None, "ids that are never said", put("task", "begin_suppress_ids", value=[97, 0]))
speech("suppress-text", "manifest-invalid", "ids are integers", put("task", "suppress_ids", value=["a"]))


def fixed_audio(manifest: Manifest) -> None:
    manifest["inputs"][0]["shape"] = [1, 4000]
    manifest["dims"] = {"past": 23}
    manifest["entry_points"] = {"encode": [], "decode": ["past"]}


speech("fixed-sound", None, "windows of one length", fixed_audio)
speech(
    "fixed-least",
    "manifest-invalid",
    "beyond the input's memory",
    lambda m: (fixed_audio(m), m["task"].update(min_seconds=0.501, window_seconds=1)),
)
speech(
    "fixed-parameters",
    "manifest-invalid",
    "no such dimension",
    lambda m: (fixed_audio(m), m["entry_points"].update(encode=["past"])),
)
speech("start-too-long", "manifest-invalid", "no room for an answer", put("task", "start_ids", value=[1] * 24))
speech(
    "start-beyond-cache",
    "manifest-invalid",
    "beyond the cache's memory",
    lambda m: (m["dims"].update(past=1), m["task"].update(start_ids=[1, 2])),
)
speech("field-missing", "manifest-invalid", "all are needed", drop("task", "start_ids"))


def detector(name: str, code: str | None, why: str, change: Callable[[Manifest], object]) -> None:
    """Registers a change of the model that says where somebody speaks."""
    field(f"detector-{name}", code, why, change, kind="detector")


detector("sound", None, "a stretch of sound and a state", lambda m: None)
detector("context-longer", "manifest-invalid", "beyond the input", put("task", "context", value=17))
detector("window-zero", "manifest-invalid", "it would never end", put("task", "window", value=0))
detector("rate-zero", "manifest-invalid", "a division by zero", put("task", "sample_rate", value=0))
detector("threshold-high", "manifest-invalid", "a probability", put("task", "threshold", value=1.5))
detector("thresholds-swapped", "manifest-invalid", "speech ends below", put("task", "neg_threshold", value=0.75))
detector("threshold-negative", "manifest-invalid", "a probability", put("task", "neg_threshold", value=-0.1))
detector("pad-negative", "manifest-invalid", "a time", put("task", "speech_pad_ms", value=-1))
detector("silence-text", "manifest-invalid", "a number", put("task", "min_silence_ms", value="long"))
detector("field-missing", "manifest-invalid", "all are needed", drop("task", "min_speech_ms"))
detector("state-type", "manifest-invalid", "it is written as floats", put("inputs", 1, "dtype", value="int32"))
detector("state-shape", "manifest-invalid", "it comes back", put("outputs", 1, "shape", value=[1]))
detector("chance-shape", "manifest-invalid", "one number", put("outputs", 0, "shape", value=[1]))
detector("without-state", "manifest-invalid", "two inputs", lambda m: m["inputs"].pop())

field("graphs-of-decoder", "manifest-invalid", "only graph models have them", put("graphs", value={}))
field("dims-zero", "manifest-invalid", "a bound is at least 1", put("dims", "batch", value=0))
field("dims-name", "manifest-invalid", "names are identifiers", put("dims", "a b", value=1))
field("slot-outside", "manifest-invalid", "outputs are read from the workspace", put("outputs", 0, "offset", value=0))
field("slot-beyond", "manifest-invalid", "outputs end in the workspace", put("outputs", 0, "bytes", value=1 << 24))
field("slot-short", "manifest-invalid", "the shape needs more", put("outputs", 0, "bytes", value=1052))
field("slot-dtype", "manifest-invalid", "six types exist", put("inputs", 0, "dtype", value="float64"))
field("slot-twice", "manifest-invalid", "names are unique", lambda m: m["inputs"].append(m["inputs"][0]))
field("slot-dimension-unknown", "manifest-invalid", "a name of `dims`", put("inputs", 0, "shape", value=["sequence"]))
field("slot-dimension-syntax", "manifest-invalid", "an expression", put("inputs", 0, "shape", value=["2*"]))
field(
    "slot-dimension-call",
    "manifest-invalid",
    "an expression is arithmetic only",
    put("inputs", 0, "shape", value=["alert(1)"]),
)
field("slot-dimension-zero-divisor", "manifest-invalid", "division by zero", put("inputs", 0, "shape", value=["8//0"]))
field(
    "slot-dimension-overflow",
    "manifest-invalid",
    "too large for exact numbers",
    put("inputs", 0, "shape", value=["99999999*99999999*0+8"]),
)
field(
    "slot-dimension-parentheses",
    "manifest-invalid",
    "too long",
    put("inputs", 0, "shape", value=["(" * 100000 + "8" + ")" * 100000]),
)
field("slot-dimension-negative", "manifest-invalid", "a size", put("inputs", 0, "shape", value=["0-8"]))
field(
    "sound-slot-expression", None, "an expression", put("inputs", 0, "shape", value=["(2 + 3)*3 // 2 + 1 - 4//4 + 1 "])
)
field("slot-rank-17", "manifest-invalid", "at most 16 dimensions", put("inputs", 0, "shape", value=[1] * 17))
field("slot-rank-with-zero", "manifest-invalid", "each dimension counts", put("inputs", 0, "shape", value=[0, 2**31]))
field("logits-missing", "manifest-invalid", "a decoder has logits", put("outputs", value=[]))
field("tokens-short", "manifest-invalid", "a chunk must fit", put("prefill_chunk", value=9))
field("context-zero", "manifest-invalid", "a decoder has a context", put("context_length", value=0))
field("context-beyond-pages", "manifest-invalid", "the cache is smaller", put("context_length", value=129))
field("kv-null", "manifest-invalid", "a decoder has a cache", put("kv", value=None))
field("kv-bits", "manifest-invalid", "16 or 32", put("kv", "bits", value=8))
field("kv-pages-beyond", "manifest-invalid", "pages beyond the region", put("kv", "page_bytes", value=1 << 20))
field(
    "kv-table-elsewhere",
    "manifest-invalid",
    "the table would overwrite weights",
    put("kv", "table_offset", value=1118208),
)
field("kv-table-too-long", "manifest-invalid", "the table would overwrite stacks", put("kv", "pages", value=9))
field("token-id-negative", "manifest-invalid", "an id", put("tokenizer", "eos_token_ids", value=[-1]))
field("tokenizer-elsewhere", "manifest-invalid", "one name", put("tokenizer", "file", value="weights/x.bin"))
field("tokenizer-unlisted", "manifest-invalid", "a file that nothing uses", put("tokenizer", value=None))
field("temperature-negative", "manifest-invalid", "a temperature", put("generation", "temperature", value=-1))
field("temperature-text", "manifest-invalid", "a number", put("generation", "temperature", value="hot"))
field("top-p-zero", "manifest-invalid", "nothing would be left", put("generation", "top_p", value=0))
field("seed-too-large", "manifest-invalid", "32 bits", put("generation", "seed", value=2**32))
field("generation-list", "manifest-invalid", "an object", put("generation", value=[]))
field("task-without-type", "manifest-invalid", "a task has a type", put("task", value={}))
field(
    "task-bad-pooling",
    "manifest-invalid",
    "mean or cls",
    put("task", value={"type": "embedding", "pooling": "max", "normalize": True, "max_length": 1}),
)
IMAGE = {
    "width": 8,
    "height": 8,
    "layout": "NCHW",
    "channels": "RGB",
    "fit": "stretch",
    "interpolation": "bilinear",
    "mean": [0, 0, 0],
    "std": [1, 1, 1],
}
field(
    "sound-task-image",
    None,
    "a picture without crop and pad",
    put("task", value={"type": "image-classification", "image": IMAGE, "labels": None, "scores": "logits"}),
)
field(
    "task-std-zero",
    "manifest-invalid",
    "a division by zero",
    put(
        "task",
        value={
            "type": "image-classification",
            "image": {**IMAGE, "std": [1, 0, 1]},
            "labels": None,
            "scores": "logits",
        },
    ),
)
field(
    "task-huge-image",
    "manifest-invalid",
    "memory for a picture is bounded",
    put(
        "task",
        value={"type": "image-classification", "image": {**IMAGE, "width": 100000}, "labels": None, "scores": "logits"},
    ),
)
field(
    "task-crop-missing",
    "manifest-invalid",
    "fit `crop` needs it",
    put(
        "task",
        value={"type": "image-classification", "image": {**IMAGE, "fit": "crop"}, "labels": None, "scores": "logits"},
    ),
)

SIMILARITY = {
    "type": "text-image-similarity",
    "text": {"max_length": 8},
    "image": IMAGE,
    "scale": 10.5,
    "bias": -1,
    "scores": "sigmoid",
    "normalize": False,
}
field("sound-similarity", None, "texts and images in one space", put("task", value=SIMILARITY))
for _case, _name, _value, _why in [
    ("length-missing", "text", {}, "texts have a longest length"),
    ("length-zero", "text", {"max_length": 0}, "no room for a text"),
    ("height-zero", "image", {**IMAGE, "height": 0}, "no room for a picture"),
    ("scale-text", "scale", "10", "a scale is a number"),
    ("bias-null", "bias", None, "a bias is a number"),
    ("scores-unknown", "scores", "cosine", "softmax or sigmoid"),
    ("normalize-number", "normalize", 1, "true or false"),
]:
    field(
        f"task-similarity-{_case}",
        "manifest-invalid",
        _why,
        put("task", value={**SIMILARITY, _name: _value}),
    )

_LABELLED: dict[str, dict[str, Any]] = {
    "text-classification": {"labels": ["no", "yes"], "scores": "softmax", "max_length": 8},
    "token-classification": {"labels": None, "max_length": 8},
    "semantic-segmentation": {"image": IMAGE, "labels": ["road"]},
}
for _case, _kind, _changed, _why in [
    ("text", "text-classification", {}, None),
    ("text-scores-missing", "text-classification", {"scores": None}, "softmax, sigmoid or logits"),
    ("text-scores-unknown", "text-classification", {"scores": "probabilities"}, "softmax, sigmoid or logits"),
    ("text-label-number", "text-classification", {"labels": [1]}, "labels are texts"),
    ("text-length-zero", "text-classification", {"max_length": 0}, "no room for a text"),
    ("tokens", "token-classification", {}, None),
    ("tokens-length-text", "token-classification", {"max_length": "8"}, "an integer"),
    ("segments", "semantic-segmentation", {}, None),
    (
        "segments-crop",
        "semantic-segmentation",
        {"image": {**IMAGE, "fit": "crop", "crop": 1}},
        "pixels without a class",
    ),
    ("segments-label-object", "semantic-segmentation", {"labels": {}}, "a list"),
]:
    field(
        f"{'task' if _why else 'sound'}-labelled-{_case}",
        "manifest-invalid" if _why else None,
        _why or "labels of texts and pixels",
        put("task", value={"type": _kind, **_LABELLED[_kind], **_changed}),
    )

_COLORS = {"channels": "RGB", "mean": [0, 0, 0], "std": [1, 1, 1]}
_DETECT = {**_COLORS, "longest": 64, "threshold": 0.3, "box_threshold": 0.5, "unclip": 1.5, "shortest": 3}
_RECOGNIZE = {**_COLORS, "height": 32, "least_width": 8, "characters": ["", "a"]}
_OCR = {"type": "ocr", "min_score": 0, "detect": _DETECT, "recognize": _RECOGNIZE}
field("sound-ocr", None, "text in pictures", put("task", value=_OCR))
for _case, _part, _value, _why in [
    ("score", "min_score", 2, "a probability"),
    ("detect-missing", "detect", None, "two graphs, two settings"),
    ("threshold", "detect", {**_DETECT, "threshold": -1}, "a probability"),
    ("longest", "detect", {**_DETECT, "longest": 1 << 20}, "memory for a picture is bounded"),
    ("unclip", "detect", {**_DETECT, "unclip": 1e9}, "boxes stay near the picture"),
    ("shortest", "detect", {**_DETECT, "shortest": -1}, "a length"),
    ("detect-std", "detect", {**_DETECT, "std": [0, 1, 1]}, "a division by zero"),
    ("height", "recognize", {**_RECOGNIZE, "height": 0}, "no room for a line"),
    ("least-width", "recognize", {**_RECOGNIZE, "least_width": 1 << 20}, "memory for a line is bounded"),
    ("characters", "recognize", {**_RECOGNIZE, "characters": ["", 1]}, "characters are texts"),
    ("channels", "recognize", {**_RECOGNIZE, "channels": "GRAY"}, "RGB or BGR"),
]:
    field(f"task-ocr-{_case}", "manifest-invalid", _why, put("task", value={**_OCR, _part: _value}))

# --- weights -----------------------------------------------------------------------------------------------

field(
    "segment-below-region",
    "manifest-invalid",
    "weights would overwrite stacks",
    put("weights", 0, "segments", 0, "target", value=0),
)
field(
    "segment-beyond-region",
    "manifest-invalid",
    "weights would overwrite the cache",
    put("weights", 0, "segments", 0, "target", value=1119936 - 64),
)
field("segment-negative", "manifest-invalid", "an address", put("weights", 0, "segments", 0, "target", value=-1118208))
field(
    "segment-wraps",
    "manifest-invalid",
    "an address that wraps at 32 bits",
    put("weights", 0, "segments", 0, "target", value=2**32 + 1118208),
)
field("segment-op", "manifest-invalid", "three kinds exist", put("weights", 0, "segments", 0, "op", value="xor"))
field(
    "segment-without-shift", "manifest-invalid", "a bit plane has a place", drop("weights", 0, "segments", -1, "shift")
)
field(
    "segment-shift-2", "manifest-invalid", "two bit planes exist", put("weights", 0, "segments", -1, "shift", value=2)
)
field(
    "segment-plane-unaligned",
    "manifest-invalid",
    "planes are vectors",
    put("weights", 0, "segments", 1, "target", value=1119296 + 16),
)
field(
    "segment-unknown-field",
    "manifest-invalid",
    "nothing else is allowed",
    put("weights", 0, "segments", 0, "shift", value=0),
)
for _name, _columns in (("zero", 0), ("too-many", 100_000), ("broken-row", 7), ("absurd", 2**53 - 1)):
    field(
        f"segment-columns-{_name}",
        "manifest-invalid",
        "scales and whole rows",
        lambda m, columns=_columns: m["weights"][0]["segments"][0].update(op="scaled8", columns=columns),
    )
field(
    "segment-columns-beyond-region",
    "manifest-invalid",
    "bytes become floats",
    lambda m: m["weights"][0]["segments"][-1].update(op="scaled8", target=1119936 - 64),
)
field("segments-none", "manifest-invalid", "they cover the file", put("weights", 0, "segments", value=[]))
field("segments-short", "manifest-invalid", "they cover the file", drop("weights", 0, "segments", -1))


def _zero_length(manifest: Manifest) -> None:
    manifest["weights"][0]["segments"].append({"op": "copy", "length": 0, "target": 1118208})


def _overlapping_copies(manifest: Manifest) -> None:
    first = manifest["weights"][0]["segments"][0]
    half = {**first, "length": first["length"] // 2}
    manifest["weights"][0]["segments"][:1] = [half, {**half, "target": half["target"] + 16}]


def _plane_over_copy(manifest: Manifest) -> None:
    first, second = manifest["weights"][0]["segments"][:2]
    first["op"], second["target"] = "copy", first["target"]


def _same_plane_twice(manifest: Manifest) -> None:
    segments = manifest["weights"][0]["segments"]
    segments[3]["shift"] = segments[2]["shift"]


def _absurd_lengths(manifest: Manifest) -> None:
    """Lengths whose sum is right only when it wraps."""
    segments = manifest["weights"][0]["segments"]
    segments[0]["length"] += 2**53 - 1


field("segment-empty", "manifest-invalid", "no length is 0", _zero_length)
field("segments-overlap", "manifest-invalid", "the order would matter", _overlapping_copies)
field("segments-plane-over-copy", "manifest-invalid", "the order would matter", _plane_over_copy)
field("segments-same-plane-twice", "manifest-invalid", "two planes mixed", _same_plane_twice)
field("segments-absurd-length", "manifest-invalid", "sums must not wrap", _absurd_lengths)
field(
    "weights-listed-twice", "manifest-invalid", "the same targets twice", lambda m: m["weights"].append(m["weights"][0])
)
field("weights-unlisted", "manifest-invalid", "a file that nothing uses", put("weights", value=[]))
field(
    "weights-outside", "manifest-invalid", "a path out of the bundle", put("weights", 0, "file", value="../weights.bin")
)


@case("weights-name-is-not-the-hash", "manifest-invalid", "names are hashes, caches rely on it")
def _(root: Path) -> None:
    old = weight_file(root)
    name = "weights/" + "0" * 64 + ".bin"
    manifest = json.loads((root / "manifest.json").read_bytes())
    manifest["files"][name] = manifest["files"].pop(f"weights/{old.name}")
    manifest["weights"][0]["file"] = name
    (root / "manifest.json").write_text(json.dumps(manifest))
    old.rename(root / name)


# --- files -------------------------------------------------------------------------------------------------


def _rename_in_files(new: str) -> Callable[[Manifest], None]:
    def change(manifest: Manifest) -> None:
        manifest["files"][new] = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}

    return change


field("files-parent", "manifest-invalid", "a path out of the bundle", _rename_in_files("../x"))
field("files-absolute", "manifest-invalid", "a path out of the bundle", _rename_in_files("/etc/passwd"))
field("files-backslash", "manifest-invalid", "a path out of the bundle on Windows", _rename_in_files("..\\x"))
field("files-nul", "manifest-invalid", "a name that C would cut", _rename_in_files("report.html\0.bin"))
field("files-upper", "manifest-invalid", "names are lower-case", _rename_in_files("Report.html"))
field("files-unused", "manifest-invalid", "a file that nothing uses", _rename_in_files("notes.txt"))
field("files-manifest", "manifest-invalid", "the manifest is not in its own list", _rename_in_files("manifest.json"))
field("files-hash-short", "manifest-invalid", "64 digits", put("files", "tokenizer.json", "sha256", value="00"))
field(
    "files-17mib-weights",
    "manifest-invalid",
    "at most 16 MiB",
    lambda m: m["files"][m["weights"][0]["file"]].update(bytes=17 << 20),
)
field(
    "files-1tb-module",
    "manifest-invalid",
    "nobody may be made to download that",
    put("files", "module.simd128.wasm", "bytes", value=1 << 40),
)
field(
    "files-empty-module", "manifest-invalid", "at least one byte", put("files", "module.simd128.wasm", "bytes", value=0)
)
field("files-list", "manifest-invalid", "an object", put("files", value=[]))


@case("weights-missing", "file-missing", "an incomplete copy")
def _(root: Path) -> None:
    weight_file(root).unlink()


@case("module-missing", "file-missing", "an incomplete copy")
def _(root: Path) -> None:
    (root / "module.simd128.wasm").unlink()


@case("weights-truncated", "length-mismatch", "a download that broke off")
def _(root: Path) -> None:
    file = weight_file(root)
    os.truncate(file, file.stat().st_size - 1)


@case("weights-empty", "length-mismatch", "a download that broke off at once")
def _(root: Path) -> None:
    os.truncate(weight_file(root), 0)


@case("weights-longer", "length-mismatch", "something was appended")
def _(root: Path) -> None:
    with weight_file(root).open("ab") as stream:
        stream.write(b"x")


@case("weights-zeros", "hash-mismatch", "a file system that lost the content keeps the length")
def _(root: Path) -> None:
    file = weight_file(root)
    file.write_bytes(bytes(file.stat().st_size))


@case("weights-one-bit", "hash-mismatch", "one flipped bit")
def _(root: Path) -> None:
    file = weight_file(root)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@case("weights-of-another-model", "hash-mismatch", "swapped weights of the same size")
def _(root: Path) -> None:
    other = root.with_name(root.name + ".other")
    write_fake_bundle(other, seed=1)
    shutil.copyfile(weight_file(other), weight_file(root))
    shutil.rmtree(other)


@case("weights-html", "length-mismatch", "servers answer with a page instead of the file")
def _(root: Path) -> None:
    weight_file(root).write_text("<!doctype html><title>Not found</title>")


@case("module-swapped", "hash-mismatch", "another module of the same size")
def _(root: Path) -> None:
    module = root / "module.simd128.wasm"
    module.write_bytes(module.read_bytes()[:-1] + b"\x0f")


@case("tokenizer-changed", "hash-mismatch", "the tokenizer is checked too")
def _(root: Path) -> None:
    file = root / "tokenizer.json"
    file.write_bytes(file.read_bytes().replace(b"<|im_end|>", b"<|im_eXd|>"))


@case("extra-file", "file-unexpected", "nothing else may be there", disk_only=True)
def _(root: Path) -> None:
    (root / "notes.txt").write_text("hello")


@case("extra-hidden-file", "file-unexpected", "nothing else may be there", disk_only=True)
def _(root: Path) -> None:
    (root / ".DS_Store").write_bytes(b"\0")


@case("extra-weights", "file-unexpected", "left over from another model", disk_only=True)
def _(root: Path) -> None:
    (root / "weights" / ("0" * 64 + ".bin")).write_bytes(b"x")


@case("extra-folder", "file-unexpected", "nothing else may be there", disk_only=True)
def _(root: Path) -> None:
    (root / "cache").mkdir()


@case("extra-folder-in-weights", "file-unexpected", "weights are files", disk_only=True)
def _(root: Path) -> None:
    (root / "weights" / "more").mkdir()


@case("weights-link-to-outside", "file-unexpected", "a link, though the content is right", disk_only=True)
def _(root: Path) -> None:
    file = weight_file(root)
    outside = root.parent / f"{root.name}.outside.bin"
    file.rename(outside)
    file.symlink_to(outside)


@case("weights-folder-is-a-link", "file-unexpected", "a folder that leads outside", disk_only=True)
def _(root: Path) -> None:
    outside = root.parent / f"{root.name}.outside"
    (root / "weights").rename(outside)
    (root / "weights").symlink_to(outside, target_is_directory=True)


@case("module-is-a-pipe", "file-unexpected", "reading it would block for ever", disk_only=True)
def _(root: Path) -> None:
    (root / "module.simd128.wasm").unlink()
    os.mkfifo(root / "module.simd128.wasm")


@case("module-is-a-folder", "file-unexpected", "a folder is no module", disk_only=True)
def _(root: Path) -> None:
    (root / "module.simd128.wasm").unlink()
    (root / "module.simd128.wasm").mkdir()


def write_case(case: Case, folder: Path) -> Path:
    """Write the bundle of one case and return its path."""
    root = folder / f"{case.name}.edgec"
    write_fake_bundle(root, kind=case.kind)
    case.damage(root)
    return root


def write_all(folder: Path) -> list[dict[str, Any]]:
    """Write every case and `expected.json`."""
    expected = []
    for case in CASES:
        write_case(case, folder)
        expected.append({"case": case.name, "code": case.code, "why": case.why, "disk_only": case.disk_only})
    (folder / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")
    return expected


if __name__ == "__main__":
    print(f"{len(write_all(Path(sys.argv[1])))} cases")
