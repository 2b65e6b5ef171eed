"""`edgec run`: one request to a bundle of any kind."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgec.cli import labelling, loading, searching
from edgec.errors import UsageError
from edgec.whole_file import whole_file

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgec.run import Model

EPILOG = """\
Examples:

\b
  edgec run smollm2.edgec "What is the capital of France?"
  edgec run smollm2.edgec --raw "Once upon a time" --max-tokens 200 --temperature 0.8
  edgec run efficientnet.edgec --image cat.jpg
  edgec run clip.edgec --image cat.jpg "a cat" "a dog"
  edgec run clip.edgec --search photos "a dog on the beach"
  edgec run clip.edgec --search holiday.mp4 "a dog on the beach" --every 0.5
  edgec run ppocr.edgec --image page.png
  edgec run segformer.edgec --image street.jpg -o overlay.png
  edgec run minilm.edgec "a cat" "a kitten" "the stock market"
  edgec run sentiment.edgec "What a wonderful film!"
  edgec run nli.edgec --pair "A man eats." "Somebody eats."
  edgec run reranker.edgec --query "What do cats eat?" "Cats eat mice." "Cars burn petrol."
  edgec run ner.edgec "Ada Lovelace was born in London."
  edgec run moonshine.edgec --audio speech.wav
  edgec run model.edgec --input image=image.npy --output result.npz
"""


@click.command(epilog=EPILOG)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option("--raw", is_flag=True, help="Continue the text as it is, without the chat template.")
@click.option("--system", metavar="TEXT", help="How the model should behave.")
@click.option("--pair", is_flag=True, help="The two TEXTs are one input: premise and hypothesis, question and answer.")
@click.option("--query", metavar="TEXT", help="Order the TEXTs by how well they answer this one.")
@click.option("--image", "images", multiple=True, type=click.Path(path_type=Path), help="A picture (JPEG, PNG, WebP).")
@click.option(
    "--search",
    type=click.Path(path_type=Path),
    metavar="PLACE",
    help="Find what fits TEXT best: pictures and videos of a folder, or moments of a video.",
)
@click.option(
    "--every",
    type=click.FloatRange(min=0.01),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="With --search: how far apart the frames of a video are that are looked at.",
)
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="With --search: how many.")
@click.option("--no-cache", is_flag=True, help="With --search: keep no vectors of pictures for the next time.")
@click.option("--graph", metavar="NAME", help="With --input: which one of several graphs.")
@click.option("--audio", "sounds", multiple=True, type=click.Path(path_type=Path), help="A sound (WAV).")
@click.option("--input", "inputs", multiple=True, metavar="NAME=FILE.npy", help="An input tensor.")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write output tensors (.npz), or the picture with its segments (.png), there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--hash-logits", is_flag=True, help="With --json: a hash of all logits, the same in every runtime.")
@click.option("--quiet", "-q", is_flag=True, help="Print the result alone.")
@loading.adapter_option
@loading.sampling_options
@loading.depth_option
@loading.engine_options
def command(
    bundle: Path,
    texts: tuple[str, ...],
    raw: bool,
    system: str | None,
    pair: bool,
    query: str | None,
    images: tuple[Path, ...],
    search: Path | None,
    every: float,
    top: int,
    no_cache: bool,
    graph: str | None,
    sounds: tuple[Path, ...],
    inputs: tuple[str, ...],
    output: Path | None,
    as_json: bool,
    hash_logits: bool,
    quiet: bool,
    adapter: Path | None,
    depth: str | None,
    variant: str | None,
    threads: int | None,
    **options: Any,
) -> None:
    """Ask BUNDLE once, in Python, with the same WebAssembly that browsers run.

    A language model answers TEXT (or standard input), an encoder compares TEXTs, or labels them, finds names in them
    or orders them by a --query, as it was trained. A vision model looks at --image, a model of both tells which TEXT
    fits an --image, or what in a folder or video fits a TEXT. A speech model writes down --audio, or says where
    somebody speaks in it. Every other graph takes tensors with --input.
    """
    with loading.load(bundle, variant=variant, threads=threads, depth=depth, quiet=quiet or as_json) as model:
        loading.use_adapter(model, adapter)
        kind = (model.manifest.task or {}).get("type")
        if model.manifest.model.kind == "decoder":
            if images or sounds or inputs or search or query:
                hint = "leave out `--image`, `--search`, `--audio`, `--query` and `--input`"
                raise UsageError("a language model takes a text", hint=hint)
            prompt = " ".join(texts) if texts else _standard_input()
            answer(model, prompt, raw, system, loading.given(options), as_json, hash_logits, quiet)
        elif pair and kind != "text-classification":
            raise UsageError("`--pair` is for models that classify texts", hint="leave it out")
        elif query is not None:
            labelling.rerank(model, query, texts, as_json=as_json)
        elif search:
            kept = not no_cache
            searching.search(model, search, texts, top=top, every=every, use_cache=kept, as_json=as_json, quiet=quiet)
        elif images and kind == "semantic-segmentation":
            labelling.segment(model, images, output, as_json=as_json)
        elif images:
            _look(model, images, texts, as_json)
        elif sounds and kind == "speech-detection":
            _find_speech(model, sounds, as_json)
        elif sounds:
            _listen(model, sounds, as_json, quiet)
        elif texts and kind == "text-classification":
            labelling.classify(model, texts, pair=pair, as_json=as_json)
        elif texts and kind == "token-classification":
            labelling.find(model, texts, as_json=as_json)
        elif texts:
            _compare(model, texts, as_json)
        else:
            _tensors(model, graph, inputs, output, as_json)


def _standard_input() -> str:
    if sys.stdin.isatty():
        raise UsageError("there is no prompt", hint='for example `edgec run BUNDLE "What is the capital of France?"`')
    return sys.stdin.read().rstrip("\n")


def answer(
    model: Model,
    prompt: str,
    raw: bool,
    system: str | None,
    sampling: dict[str, Any],
    as_json: bool,
    hash_logits: bool,
    quiet: bool,
) -> None:
    """Print a language model's answer as it comes."""
    from edgec.cli import console

    tokenizer = model.manifest.tokenizer
    options = {**sampling, "hash_logits": hash_logits}
    if raw or tokenizer is None or tokenizer.chat_template is None:
        generation = model.generate(prompt, **options)
    else:
        messages = [{"role": "system", "content": system}] if system else []
        generation = model.chat([*messages, {"role": "user", "content": prompt}], **options)
    if not as_json:
        for piece in generation:
            click.echo(piece, nl=False)
        click.echo()
        if not quiet and sys.stderr.isatty():
            click.echo(click.style(loading.speed(generation.stats()), dim=True), err=True)
        return
    text = generation.text()
    stats = generation.stats()
    document = {
        "text": text,
        "ids": generation.ids,
        "prompt_ids": generation.prompt_ids,
        "finish_reason": generation.finish_reason,
        "prefill_tokens_per_second": stats.prefill_tokens_per_second,
        "decode_tokens_per_second": stats.decode_tokens_per_second,
        "variant": model.stats()["variant"],
        "threads": model.stats()["threads"],
    }
    if hash_logits:
        document["logits_sha256"] = generation.logits_sha256
    console.print_json(document)


def _tensors(model: Model, graph: str | None, entries: tuple[str, ...], output: Path | None, as_json: bool) -> None:

    from edgec.cli import console

    arrays: dict[str, npt.NDArray[Any]] = {}
    for entry in entries:
        name, _, file = entry.partition("=")
        if not name or not file:
            raise UsageError(f"`--input {entry}` is not NAME=FILE.npy")
        arrays[name] = _read_array(Path(file))
    results = model.run(arrays, graph=graph)
    if output is not None:
        _write_arrays(output, results)
    if as_json:
        facts = {name: {"dtype": str(array.dtype), "shape": array.shape} for name, array in results.items()}
        click.echo(json.dumps(facts if output else {name: array.tolist() for name, array in results.items()}))
        return
    table = console.table("output", "type", "shape", "smallest", "largest", right=["smallest", "largest"])
    for name, array in results.items():
        low, high = (f"{array.min():.5g}", f"{array.max():.5g}") if array.size else ("", "")
        table.add_row(console.plain(name), str(array.dtype), " x ".join(map(str, array.shape)), low, high)
    console.stdout().print(table)


def _read_array(file: Path) -> npt.NDArray[Any]:
    import numpy as np

    try:
        array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UsageError(f"`{file}` is not an array in numpy's .npy format") from error
    if not isinstance(array, np.ndarray):
        raise UsageError(f"`{file}` holds several arrays, one is needed")
    return array


def _write_arrays(file: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    import numpy as np

    with whole_file(file) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def _look(model: Model, images: tuple[Path, ...], labels: tuple[str, ...], as_json: bool) -> None:
    from edgec.cli import console

    kind = (model.manifest.task or {}).get("type")
    if kind == "text-image-similarity" and not labels:
        raise UsageError("there is no text to compare with", hint='for example `--image cat.jpg "a cat" "a dog"`')
    look: Callable[[Path], Sequence[Any]] = {
        "object-detection": model.detect,
        "ocr": model.ocr,
        "text-image-similarity": lambda image: model.classify(image, labels=labels, top_k=len(labels)),
    }.get(str(kind), model.classify)
    found = {str(image): look(image) for image in images}
    if as_json:
        console.print_json({image: [entry.to_json() for entry in entries] for image, entries in found.items()})
        return
    for image, entries in found.items():
        if len(found) > 1:
            click.echo(click.style(image, bold=True))
        for entry in entries:
            click.echo(f"{100 * entry.score:5.1f} %  {entry}")


def _find_speech(model: Model, sounds: tuple[Path, ...], as_json: bool) -> None:
    from edgec.cli import console

    found = {str(sound): model.detect_speech(sound) for sound in sounds}
    if as_json:
        console.print_json({sound: [segment.to_json() for segment in segments] for sound, segments in found.items()})
        return
    for sound, segments in found.items():
        if len(found) > 1:
            click.echo(click.style(sound, bold=True))
        for segment in segments:
            click.echo(str(segment))


def _listen(model: Model, sounds: tuple[Path, ...], as_json: bool, quiet: bool) -> None:
    """Print what is said as it comes."""
    from edgec.cli import console

    documents = {}
    for sound in sounds:
        transcription = model.transcribe(sound)
        if as_json:
            text = transcription.text()
            segments = [segment.to_json() for segment in transcription.segments]
            documents[str(sound)] = {"text": text, "ids": transcription.ids, "segments": segments}
            continue
        if len(sounds) > 1:
            click.echo(click.style(str(sound), bold=True))
        for piece in transcription:
            click.echo(piece, nl=False)
        click.echo()
        if not quiet and sys.stderr.isatty():
            seconds = transcription.encode_seconds + transcription.decode_seconds
            note = f"{transcription.audio_seconds:.1f} s of sound in {seconds:.2f} s"
            click.echo(click.style(note, dim=True), err=True)
    if as_json:
        console.print_json(documents)


def _compare(model: Model, texts: tuple[str, ...], as_json: bool) -> None:
    from edgec.cli import console

    both = (model.manifest.task or {}).get("type") == "text-image-similarity"
    vectors = (model.embed_text if both else model.embed)(list(texts))
    similarities = vectors @ vectors.T
    if as_json:
        console.print_json({"embeddings": vectors.tolist(), "similarities": similarities.tolist()})
        return
    names = [text if len(text) <= 24 else text[:23] + "…" for text in texts]
    table = console.table("", *map(console.plain, names), right=names)
    for name, row in zip(names, similarities, strict=True):
        table.add_row(console.plain(name), *(f"{value:.3f}" for value in row))
    console.stdout().print(table)
