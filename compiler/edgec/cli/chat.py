"""`edgec chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgec.cli import interrupts, loading
from edgec.errors import EdgecError

if TYPE_CHECKING:
    from edgec.run import Model

HELP = "/reset starts anew, /system TEXT sets how it behaves, /stats shows speed and memory, /quit leaves"
EPILOG = """\
Examples:

\b
  edgec chat smollm2.edgec
  edgec chat smollm2.edgec --system "Answer in one sentence." --temperature 0.7 --seed 1
  edgec chat smollm2.edgec --adapter pirate.lora
  echo "What is the capital of France?" | edgec chat smollm2.edgec
"""


@click.command(epilog=EPILOG)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--system", metavar="TEXT", help="How the model should behave.")
@loading.adapter_option
@loading.sampling_options
@loading.depth_option
@loading.engine_options
def command(
    bundle: Path,
    system: str | None,
    adapter: Path | None,
    depth: str | None,
    variant: str | None,
    threads: int | None,
    **options: Any,
) -> None:
    """Talk with the language model in BUNDLE, in the terminal.

    Each line is a message. Ctrl-C ends an answer early, Ctrl-D the conversation.
    """
    with loading.load(bundle, variant=variant, threads=threads, depth=depth) as model:
        loading.use_adapter(model, adapter)
        Conversation(model, loading.given(options), system).run()


class Conversation:
    """Reads messages, streams answers, remembers both."""

    def __init__(self, model: Model, sampling: dict[str, Any], system: str | None) -> None:
        self.model = model
        self.sampling = sampling
        self.interactive = sys.stdin.isatty()
        self.last_speed = "nothing was said yet"
        self.messages: list[dict[str, str]] = []
        self.set_system(system)

    def set_system(self, text: str | None) -> None:
        """Start anew, with another way to behave."""
        self.messages = [{"role": "system", "content": text}] if text else []

    def run(self) -> None:
        if self.interactive:
            facts = self.model.manifest
            click.echo(f"{click.style(facts.model.name, bold=True)}, {facts.context_length:,} tokens of context")
            click.echo(click.style(HELP, dim=True))
        while (line := self._read()) is not None:
            if line.startswith("/"):
                if not self._command(line):
                    return
            elif line.strip():
                self._answer(line)

    def _read(self) -> str | None:
        """The next message, None at the end."""
        if self.interactive:
            try:
                return input(click.style("\n› ", fg="cyan", bold=True))
            except (EOFError, KeyboardInterrupt):
                click.echo()
                return None
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None

    def _command(self, line: str) -> bool:
        """Obey a line that begins with a slash; False to leave."""
        name, _, rest = line[1:].partition(" ")
        if name in ("quit", "exit"):
            return False
        if name == "reset":
            self.set_system(next((m["content"] for m in self.messages if m["role"] == "system"), None))
        elif name == "system":
            self.set_system(rest.strip() or None)
        elif name == "stats":
            stats = self.model.stats()
            click.echo(f"{self.last_speed}; {stats['memory_bytes'] / 2**20:.0f} MiB, {stats['variant']}")
        else:
            click.echo(HELP)
        return True

    def _answer(self, line: str) -> None:
        try:
            generation = self.model.chat([*self.messages, {"role": "user", "content": line}], **self.sampling)
            pieces: list[str] = []
            try:
                for piece in generation:
                    pieces.append(piece)
                    click.echo(piece, nl=False)
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                interrupts.forget()
                generation.close()
            click.echo()
        except EdgecError as error:
            if not self.interactive:
                raise
            click.echo(f"{click.style('error', fg='red')}: {error}", err=True)
            return
        self.messages += [{"role": "user", "content": line}, {"role": "assistant", "content": "".join(pieces)}]
        self.last_speed = loading.speed(generation.stats())
        if self.interactive:
            click.echo(click.style(self.last_speed, dim=True))
