"""`edgec run --search`: the pictures of a folder, and the moments of videos, that fit a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgec.errors import UsageError

if TYPE_CHECKING:
    from edgec.run import Model
    from edgec.run.search import Match


def search(
    model: Model,
    place: Path,
    texts: tuple[str, ...],
    *,
    top: int,
    every: float,
    use_cache: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Print the `top` best pictures below `place` for every text, or moments of that video, and what cannot be read."""
    from edgec.cli import console
    from edgec.run.search import default_cache, index_folder

    if not texts:
        raise UsageError("there is no text to search for", hint='for example `--search photos "a dog on the beach"`')
    cache = default_cache(model) if use_cache else None
    with console.stderr().status(f"looking at {place}") as status:

        def progress(done: int, total: int) -> None:
            status.update(f"looking at {place}: {done} of {total}")

        index = index_folder(model, place, every=every, cache=cache, progress=progress)
    each_frame = place.is_file()
    found = {text: index.search(model.embed_text(text), top_k=top, each_frame=each_frame) for text in texts}
    if as_json:
        console.print_json(
            {
                "matches": {text: [match.to_json() for match in matches] for text, matches in found.items()},
                "pictures": len({path for path, _ in index.places}),
                "embedded": index.embedded,
                "skipped": {str(path): reason for path, reason in index.skipped.items()},
            }
        )
        return
    for text, matches in found.items():
        if len(found) > 1:
            click.echo(click.style(text, bold=True))
        for match in matches:
            click.echo(f"{match.score:8.3f}  {match.path}{_moment(match)}")
    if not quiet:
        for reason in index.skipped.values():
            click.echo(f"skipped: {reason}", err=True)


def _moment(match: Match) -> str:
    """Where in its file the picture is."""
    if match.seconds is not None:
        minutes, seconds = divmod(match.seconds, 60)
        return f" at {int(minutes)}:{seconds:04.1f}"
    return "" if match.frame is None else f", frame {match.frame}"
