"""The report: its data, its plots and its page."""

from __future__ import annotations

import html.parser
import re

import pytest

from edgec.errors import BundleError
from edgec.ir import Plan, Prediction, TensorPlan
from edgec.report import from_manifest, render
from edgec.report.data import TensorRow
from edgec.report.svg import round_ticks
from edgec.report.units import mebibytes, millions

REGIONS = ("static", "control", "stacks", "workspace", "weights", "kv")


def manifest() -> dict[str, object]:
    names = ["model.layers.10.mlp.up.weight", "model.layers.2.mlp.up.weight", "model.embed_tokens.weight", "lm_head"]
    plan = Plan(
        model="<b>tiny</b>",
        profile="phone-8gb",
        tensors=tuple(TensorPlan(name, 4, 32, "asymmetric", f"because [{name}] & co") for name in names),
        kv=None,
        context_length=0,
        prefill_chunk=0,
        dims={},
        max_threads=1,
        variants=("simd128",),
        activation_bits=8,
        prediction=Prediction(3 << 20, 1, 1, 1, 9 << 20, 0.0, 0.0),
        reasons=("4 bits fit",),
    )
    tensors = {
        name: {"bits": 7 if name == "lm_head" else 4, "rows": 64, "columns": 32, "bytes": 1216, "relative_rmse": 0.07}
        for name in names
    }
    return {
        "model": {
            "name": "<b>tiny</b>",
            "architecture": "llama",
            "kind": "graph",
            "parameters": 8192,
            "license": None,
            "source_format": "hf",
        },
        "plan": plan.to_json(),
        "accuracy": {"tensors": tensors, "float_parameters": 100, "relative_rmse": 0.07},
        "memory": {name: {"offset": 0, "bytes": 64} for name in REGIONS},
        "modules": {"simd128": "module.simd128.wasm"},
        "files": {"module.simd128.wasm": {"bytes": 4096}},
    }


class Page(html.parser.HTMLParser):
    """Collects what a browser would fetch or run, and checks that tags nest."""

    VOID = frozenset({"meta", "br", "rect", "line", "circle"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href") or name.startswith("on")]
        assert tag not in ("script", "link", "iframe", "object")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_self_contained_well_formed_and_escaped() -> None:
    source = render(from_manifest(manifest()))
    page = Page()
    page.feed(source)
    assert page.open == []
    assert page.fetched == []
    assert "url(" not in source and "@import" not in source
    assert "<b>tiny</b>" in page.text and "<b>tiny</b>" not in source.replace("&lt;b&gt;tiny&lt;/b&gt;", "")
    assert "because [lm_head] & co" in page.text
    assert "4 bits fit" in page.text
    assert source == render(from_manifest(manifest()))


def test_layers_come_in_order_with_their_bytes() -> None:
    report = from_manifest(manifest())
    assert [layer.name for layer in report.layers] == ["2", "10", "embedding", "head"]
    head = report.layers[-1]
    assert (head.bytes, head.bytes_by_bits, head.parameters) == (1216, {7: 1216}, 2048)
    assert head.bits_per_weight == pytest.approx(4.75)
    assert report.packed_bytes == 4 * 1216
    document = report.to_json()
    assert document["float_bytes"] == 400
    assert [entry["layer"] for entry in document["tensors"]] == ["2", "10", "embedding", "head"]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.7.self_attn.q_k_v_proj.weight", "7"),
        ("encoder.layer.3.output.dense.weight", "3"),
        ("blk.12.ffn_up.weight", "12"),
        ("transformer.h.5.attn.c_attn.weight", "5"),
        ("features/blocks/4/conv", "4"),
        ("model.embed_tokens.weight", "embedding"),
        ("lm_head.weight", "head"),
        ("classifier.weight", "head"),
        ("conv1.weight", "other"),
    ],
)
def test_layers_of_tensor_names(name: str, layer: str) -> None:
    assert TensorRow(name, 4, 1, 1, 1, 0.0, "").layer == layer


def test_without_numbered_layers_every_tensor_is_one_in_the_order_of_the_graph() -> None:
    changed = manifest()
    changed["accuracy"]["tensors"] = {  # type: ignore[index]
        name: facts
        for name, facts in sorted(changed["accuracy"]["tensors"].items())  # type: ignore[index]
        if "layers" not in name
    }
    report = from_manifest(changed)
    assert [layer.name for layer in report.layers] == ["model.embed_tokens.weight", "lm_head"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("plan", {}),
        ("plan", {"model": 3}),
        ("accuracy", {"tensors": {"x": {}}}),
        ("accuracy", {"tensors": [1]}),
        ("accuracy", {"tensors": {"x": {"bits": "four", "rows": 1, "columns": 1, "bytes": 1}}}),
    ],
)
def test_foreign_plans_and_accuracy_reports_are_refused(field: str, value: object) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        from_manifest(manifest() | {field: value})


def test_a_report_without_quantized_tensors() -> None:
    empty = manifest()
    empty["accuracy"] = {}
    assert "Tensors" not in render(from_manifest(empty))


@pytest.mark.parametrize("highest", [0.0, 0.03, 1.0, 6.99, 17.8, 59.9, 1000.0])
def test_ticks_are_few_and_round(highest: float) -> None:
    ticks = round_ticks(highest)
    assert 2 <= len(ticks) <= 8
    assert ticks[0] == 0 and ticks[-1] >= highest
    assert all(len(re.sub(r"[.0]|e.*", "", f"{tick:.6g}")) <= 2 for tick in ticks)


def test_units() -> None:
    assert [mebibytes(n) for n in (5, 2048, 3 << 20, 20 << 30)] == ["5 B", "2.0 KiB", "3.0 MiB", "20.0 GiB"]
    assert [millions(n) for n in (7, 1500, 134_515_008, 1_235_000_000)] == ["7", "1.5 K", "134.5 M", "1.2 B"]
