"""The table of commands. A command's module is imported only when it runs, so that `--help` is instant."""

from __future__ import annotations

import importlib
import os

import click

from edgec import __version__

# section -> command -> (module:attribute, one line for the overview)
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Make": {
        "compile": ("edgec.cli.compile:command", "Compile a model for a device into a bundle."),
        "compile-matrix": ("edgec.cli.compile_matrix:command", "Compile many models for many devices."),
        "adapter": ("edgec.cli.adapter:command", "Make a LoRA adapter that a bundle swaps at run time."),
        "profiles": ("edgec.cli.profiles:command", "List the device profiles, or show one."),
    },
    "Use": {
        "run": ("edgec.cli.run:command", "Ask once: a prompt, a picture, texts or tensors."),
        "chat": ("edgec.cli.chat:command", "Talk with a language model in the terminal."),
        "serve": ("edgec.cli.serve:command", "Show bundles in the browser, from this machine."),
    },
    "Examine": {
        "inspect": ("edgec.cli.inspect:command", "Sizes and bits per layer; what a model contains."),
        "verify": ("edgec.cli.verify:command", "Check every file, hash and bound of a bundle."),
        "eval": ("edgec.cli.eval:command", "Measure accuracy against the float model."),
        "bench": ("edgec.cli.bench:command", "Measure speed and memory in every engine."),
        "doctor": ("edgec.cli.doctor:command", "Check what this machine can do."),
    },
}

EXAMPLES = """\
Examples:

  edgec compile ./SmolLM2-135M-Instruct --profile phone-8gb -o smollm2.edgec
  edgec run smollm2.edgec "What is the capital of France?"
  edgec serve smollm2.edgec
"""


class LazyGroup(click.Group):
    """A group whose members are named in `COMMANDS` and imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in COMMANDS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for section in COMMANDS.values():
            if cmd_name in section:
                module, _, attribute = section[cmd_name][0].partition(":")
                command = getattr(importlib.import_module(module), attribute)
                assert isinstance(command, click.Command)
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, line) for name, (_, line) in section.items()], col_spacing=3)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write("\n" + EXAMPLES)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            close = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not close:
                raise
            raise click.UsageError(f"no such command `{args[0]}`, did you mean `{close[0]}`?", ctx) from error


def _debug(_context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        os.environ["EDGEC_DEBUG"] = "1"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", message="edgec %(version)s")
@click.option("--debug", is_flag=True, expose_value=False, callback=_debug, help="Show tracebacks of errors.")
def app() -> None:
    """Compile language and vision models into small bundles that run offline, on the user's own device."""
