"""`edgec eval`: how much of the float model's accuracy a bundle keeps."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgec.cli import loading
from edgec.errors import AccuracyError, OutputError, UsageError

if TYPE_CHECKING:
    from edgec.eval import ReferenceDecoder, ReferenceGraph
    from edgec.run import Model
    from edgec.run.tokenizer import Tokenizer

EPILOG = """\
Examples:

\b
  edgec eval smollm2.edgec --text wikitext.txt
  edgec eval smollm2.edgec SmolLM2-135M-Instruct.gguf --text wikitext.txt --max-loss 0.02
  edgec eval smollm2.edgec SmolLM2-135M-Instruct.gguf --text wikitext.txt --report smollm2.html
  edgec eval minilm.edgec ./all-MiniLM-L6-v2 --pairs sts-test.tsv
  edgec eval efficientnet.edgec efficientnet.onnx --images ./imagenet-sample
"""
Result = dict[str, float | int | bool]
Advance = Callable[[int], None]


@click.command(epilog=EPILOG)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("model", required=False)
@click.option("--text", type=click.Path(path_type=Path), help="For language models: a text to predict.")
@click.option("--context", type=click.IntRange(min=2), default=1024, show_default=True, help="Tokens per window.")
@click.option("--tokens", type=click.IntRange(min=2), default=8192, show_default=True, help="Use the first N tokens.")
@click.option("--pairs", type=click.Path(path_type=Path), help="For encoders: sentence pairs with scores (CSV, TSV).")
@click.option("--images", type=click.Path(path_type=Path), help="For vision models: pictures, with `index.csv`.")
@click.option("--max-loss", type=float, metavar="X", help="Fail (exit code 8) if more than this is lost.")
@click.option("--task", help="What MODEL is for, when it goes through Optimum.")
@click.option("--lora", type=click.Path(path_type=Path), metavar="DIR", help="An adapter to merge into MODEL.")
@loading.adapter_option
@click.option("--report", "page", type=click.Path(path_type=Path), help="Write the numbers as a page (HTML), too.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@loading.depth_option
@loading.engine_options
def command(
    bundle: Path,
    model: str | None,
    text: Path | None,
    context: int,
    tokens: int,
    pairs: Path | None,
    images: Path | None,
    max_loss: float | None,
    task: str | None,
    lora: Path | None,
    adapter: Path | None,
    page: Path | None,
    as_json: bool,
    depth: str | None,
    variant: str | None,
    threads: int | None,
) -> None:
    """Measure the accuracy of BUNDLE on your data, and of the float MODEL it was made from.

    Perplexity, KL divergence and top-1 agreement for language models, Spearman correlation for encoders, top-1 for
    classifiers, equal boxes for detectors. The loss is relative for perplexity and absolute otherwise.
    """
    from edgec.cli import console

    if max_loss is not None and model is None:
        raise UsageError("`--max-loss` needs the float model to compare with")
    if page is not None and not page.absolute().parent.is_dir():
        raise OutputError(f"`{page}` cannot be written, the folder does not exist")  # now, not after minutes of work
    with (
        loading.load(bundle, variant=variant, threads=threads, depth=depth, quiet=as_json) as compiled,
        _reference(model, task, compiled.manifest.context_length, lora) as float_model,
    ):
        loading.use_adapter(compiled, adapter)
        kind = compiled.manifest.model.kind
        task_type = (compiled.manifest.task or {}).get("type")
        if kind == "decoder":
            result = _language(compiled, float_model, _needed(text, "--text"), context, tokens)
        elif task_type == "embedding":
            result = _similarity(compiled, float_model, _needed(pairs, "--pairs"))
        elif task_type == "image-classification":
            result = _classification(compiled, float_model, _needed(images, "--images"))
        elif task_type == "object-detection":
            result = _detection(compiled, float_model, _needed(images, "--images"))
        else:
            raise UsageError("there is no measure for this bundle's task", hint="`edgec run --input` gives its outputs")
        document = compiled.manifest.to_json()
    if page is not None:
        _write_page(page, document, result, next(str(path.name) for path in (text, pairs, images) if path is not None))
    if as_json:
        console.print_json(result)
    else:
        _show(result)
    loss = result.get("loss")
    if max_loss is not None and loss is not None and loss > max_loss:
        raise AccuracyError(f"the loss is {loss:.4f}, more than {max_loss}", hint="compile with more bits")


def _write_page(file: Path, manifest: dict[str, Any], result: Result, data: str) -> None:
    from edgec import report
    from edgec.cli.inspect import write_text
    from edgec.report.evidence import render_evaluation

    try:
        write_text(file, render_evaluation(report.from_manifest(manifest), result, data))
    except OSError as error:
        raise OutputError(f"`{file}` cannot be written ({error.strerror})") from error


def _needed(path: Path | None, option: str) -> Path:
    if path is None:
        raise UsageError(f"this bundle is measured with `{option}`")
    return path


@contextmanager
def _reference(
    source: str | None, task: str | None, context: int, lora: Path | None
) -> Iterator[ReferenceDecoder | ReferenceGraph | None]:
    """The float model, with the rotations of the bundle's context."""
    if source is None:
        yield None
        return
    from edgec.eval import open_reference
    from edgec.frontend import load

    model = open_reference(load(source, task=task, lora=lora).for_context(context))
    with model:
        yield model


@contextmanager
def _bar(label: str, total: int) -> Iterator[Advance]:
    """A progress bar on a terminal, nothing elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from edgec.cli import console

    columns = (TextColumn(f"  {label}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    shown = sys.stderr.isatty()
    with Progress(*columns, console=console.stderr(), transient=True, disable=not shown) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


def _language(
    compiled: Model, reference: ReferenceDecoder | ReferenceGraph | None, file: Path, context: int, tokens: int
) -> Result:
    from edgec import eval as measures

    if compiled.tokenizer is None:
        raise UsageError("the bundle has no tokenizer, texts cannot be read")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"`{file}` is not a text in UTF-8") from None
    ids = compiled.tokenizer.encode_plain(text)[:tokens]
    context = min(context, compiled.manifest.context_length)
    with _bar("predicting", len(ids)) as advance:
        if reference is None:
            alone = measures.perplexity(compiled.logits, ids, context, progress=advance)
            return {"tokens": alone.tokens, "context": context, "perplexity": alone.perplexity}
        if not isinstance(reference, measures.ReferenceDecoder):
            raise UsageError("the float model is no language model")
        own = _own_tokenizer(reference)
        if own is not None and own.ids() != compiled.tokenizer.ids():
            return _pruned_language(compiled, reference, own, ids, context, advance)
        both = measures.compare(compiled.logits, reference.logits, ids, context, progress=advance)
    return {
        "tokens": both.model.tokens,
        "context": context,
        "perplexity": both.model.perplexity,
        "reference_perplexity": both.reference.perplexity,
        "loss": both.perplexity_ratio - 1,
        "kl_mean": both.kl_mean,
        "kl_p99": both.kl_p99,
        "kl_max": both.kl_max,
        "top1_agreement": both.top1_agreement,
    }


def _pruned_language(
    compiled: Model, reference: ReferenceDecoder, own: Tokenizer, ids: list[int], context: int, advance: Advance
) -> Result:
    """Of a bundle with fewer tokens: the loss is per token of the float model, which reads the text its own way."""
    from edgec import eval as measures

    assert compiled.tokenizer is not None
    restricted = measures.RestrictedDecoder(reference, compiled.tokenizer, own)
    both = measures.compare(compiled.logits, restricted.logits, ids, context, progress=advance)
    whole = measures.perplexity(reference.logits, own.encode_plain(compiled.tokenizer.decode(ids)), context)
    more = both.model.nll * both.model.tokens - whole.nll * whole.tokens
    return {
        "tokens": both.model.tokens,
        "reference_tokens": whole.tokens,
        "context": context,
        "perplexity": both.model.perplexity,
        "reference_perplexity": whole.perplexity,
        "loss": math.exp(more / whole.tokens) - 1,
        "kl_mean": both.kl_mean,
        "kl_p99": both.kl_p99,
        "kl_max": both.kl_max,
        "top1_agreement": both.top1_agreement,
    }


def _own_tokenizer(reference: ReferenceDecoder | ReferenceGraph) -> Tokenizer | None:
    from edgec.run.tokenizer import Tokenizer

    assets = reference.model.tokenizer
    return None if assets is None else Tokenizer(assets.tokenizer_json)


def _similarity(compiled: Model, reference: ReferenceDecoder | ReferenceGraph | None, file: Path) -> Result:
    from edgec import eval as measures
    from edgec.run.tasks.embedding import embed

    pairs = measures.read_pairs(file)
    with _bar("comparing", len(pairs)) as advance:
        result: Result = {
            "pairs": len(pairs),
            "spearman": measures.sts_spearman(compiled.embed, pairs, progress=advance),
        }
    if reference is None:
        return result
    runner, task = _graph(reference), compiled.manifest.task or {}
    tokenizer, assets = _own_tokenizer(reference), reference.model.tokenizer
    if tokenizer is None or assets is None:
        raise UsageError("the float model has no tokenizer, texts cannot be read")
    with _bar("float model", len(pairs)) as advance:
        expected = measures.sts_spearman(
            lambda texts: embed(runner, tokenizer, task, texts, pad_token_id=assets.pad_token_id or 0),
            pairs,
            progress=advance,
        )
    return result | {"reference_spearman": expected, "loss": expected - result["spearman"]}


def _classification(compiled: Model, reference: ReferenceDecoder | ReferenceGraph | None, folder: Path) -> Result:
    from edgec import eval as measures
    from edgec.run.tasks.classification import classifications
    from edgec.run.tasks.images import image_output

    pictures = measures.read_index(folder)
    with _bar("looking", len(pictures)) as advance:
        top1 = measures.top1(compiled.classify, pictures, progress=advance)
    result: Result = {"pictures": len(pictures), "top1": top1}
    if reference is None:
        return result
    runner, task = _graph(reference), compiled.manifest.task or {}
    with _bar("float model", len(pictures)) as advance:
        expected = measures.top1(
            lambda path: classifications(image_output(runner, task["image"], path)[0], task, 1),
            pictures,
            progress=advance,
        )
    return result | {"reference_top1": expected, "loss": expected - top1}


def _detection(compiled: Model, reference: ReferenceDecoder | ReferenceGraph | None, folder: Path) -> Result:
    from edgec import eval as measures
    from edgec.pictures import list_pictures
    from edgec.run.tasks.detection import detections
    from edgec.run.tasks.images import image_output

    if reference is None:
        raise UsageError("boxes are compared with those of the float model", hint="name it: edgec eval BUNDLE MODEL")
    runner, task = _graph(reference), compiled.manifest.task or {}

    def expected(path: Path) -> Any:
        output, placement = image_output(runner, task["image"], path)
        return detections(output, task, placement)

    pictures = list_pictures(folder)
    with _bar("looking", len(pictures)) as advance:
        agreement = measures.detection_agreement(compiled.detect, expected, pictures, progress=advance)
    missed = agreement.reference_boxes - agreement.found
    return {
        "pictures": agreement.images,
        "reference_boxes": agreement.reference_boxes,
        "found": agreement.found,
        "extra": agreement.extra,
        "worst_iou": agreement.worst_iou,
        "same": agreement.same,
        "loss": (missed + agreement.extra) / max(agreement.reference_boxes, 1),
    }


def _graph(reference: ReferenceDecoder | ReferenceGraph) -> ReferenceGraph:
    from edgec.eval import ReferenceGraph

    if not isinstance(reference, ReferenceGraph):
        raise UsageError("the float model is a language model, the bundle is not")
    return reference


def _show(result: Result) -> None:
    from edgec.cli import console

    table = console.table("measure", "value", right=["value"])
    for name, value in result.items():
        shown = (
            ("yes" if value else "no")
            if isinstance(value, bool)
            else f"{value:,}"
            if isinstance(value, int)
            else f"{value:.4f}"
        )
        table.add_row(name.replace("_", " "), shown)
    console.stdout().print(table)
