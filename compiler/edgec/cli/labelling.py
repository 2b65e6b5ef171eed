"""`edgec run` for models that label texts, stretches of texts and pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgec.cli import console
from edgec.errors import UsageError
from edgec.pictures import SUFFIXES
from edgec.whole_file import whole_file

if TYPE_CHECKING:
    from edgec.run import Model
    from edgec.run.tasks.segmentation import Segmentation


def classify(model: Model, texts: Sequence[str], *, pair: bool, as_json: bool) -> None:
    """The classes of every text, or of two as a pair."""
    if pair and len(texts) != 2:
        raise UsageError(f"a pair is two texts, there {'is' if len(texts) == 1 else 'are'} {len(texts)}")
    asked = [tuple(texts)] if pair else list(texts)
    found = [(what, model.classify(what)) for what in asked]
    if as_json:
        console.print_json([{"text": what, "classes": [entry.to_json() for entry in kinds]} for what, kinds in found])
        return
    shares = (model.manifest.task or {}).get("scores") != "logits"
    for what, kinds in found:
        if len(found) > 1:
            click.echo(click.style(str(what), bold=True))
        for entry in kinds:
            click.echo(f"{100 * entry.score:5.1f} %  {entry}" if shares else f"{entry.score:8.4f}  {entry}")


def rerank(model: Model, query: str, texts: Sequence[str], *, as_json: bool) -> None:
    if not texts:
        raise UsageError("there is nothing to rank", hint="give texts after the bundle")
    ranked = model.rerank(query, texts)
    if as_json:
        console.print_json([entry.to_json() for entry in ranked])
        return
    for entry in ranked:
        click.echo(f"{entry.score:8.4f}  {entry}")


def find(model: Model, texts: Sequence[str], *, as_json: bool) -> None:
    """The names and other stretches of every text."""
    found = [(text, model.tokens(text)) for text in texts]
    if as_json:
        document = [{"text": text, "entities": [entity.to_json() for entity in entities]} for text, entities in found]
        console.print_json(document)
        return
    for text, entities in found:
        if len(found) > 1:
            click.echo(click.style(text, bold=True))
        if not entities:
            click.echo("nothing found")
        for entity in entities:
            click.echo(f"{100 * entity.score:5.1f} %  {entity}")


def segment(model: Model, images: Sequence[Path], output: Path | None, *, as_json: bool) -> None:
    """The classes in every picture, and with `output` the picture with their colors over it."""
    if output is not None and len(images) > 1:
        raise UsageError("`--output` holds one picture", hint="give one `--image`")
    if output is not None and output.suffix.lower() not in SUFFIXES:
        raise UsageError(f"`{output.name}` is no picture's name", hint=f"known are {', '.join(SUFFIXES)}")
    found = {image: model.segment(image) for image in images}
    if output is not None:
        _write(found[images[0]], images[0], output)
    if as_json:
        console.print_json({str(image): segmentation.to_json() for image, segmentation in found.items()})
        return
    for image, segmentation in found.items():
        if len(found) > 1:
            click.echo(click.style(str(image), bold=True))
        table = console.table("class", "pixels", "share", right=["pixels", "share"])
        for entry in segmentation.segments:
            table.add_row(console.plain(entry.label), str(entry.pixels), f"{100 * entry.share:.1f} %")
        console.stdout().print(table)


def _write(segmentation: Segmentation, image: Path, output: Path) -> None:
    try:
        with whole_file(output) as partial:
            segmentation.overlay(image).save(partial)
    except OSError as error:
        raise UsageError(f"`{output}` cannot be written ({error.strerror or error})") from error
