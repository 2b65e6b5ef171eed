"""The command line: `main()` turns every outcome into an exit code and, at most, one clear message.

0          done
2 ... 11   the classes of `edgec.errors`, each with its own code
70         a bug in edgec (one line, how to report it; `--debug` shows the traceback)
130, 143   interrupted by Ctrl-C, terminated
141        the reader of our output went away (`edgec inspect ... | head`)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from edgec.cli import interrupts

EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
EXIT_TERMINATED = 143


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit the process."""
    interrupts.install()
    code = invoke(sys.argv[1:] if arguments is None else list(arguments))
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = EXIT_BROKEN_PIPE
    if code == EXIT_BROKEN_PIPE:
        # The interpreter flushes stdout once more when it exits, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def invoke(arguments: list[str]) -> int:
    """Run one command and return its exit code; nothing but a message on stderr comes out of a failure."""
    import click

    from edgec.cli import failures
    from edgec.cli.app import app
    from edgec.errors import EdgecError, UsageError

    as_json = "--json" in arguments
    try:
        if "_EDGEC_COMPLETE" in os.environ:  # a shell asks for completions
            app.main(arguments, prog_name="edgec")
        # Not `app.main()`: it has its own opinion on broken pipes and exit codes.
        with app.make_context("edgec", arguments) as context:
            result = app.invoke(context)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as exit_request:
        return exit_request.exit_code
    except click.exceptions.NoArgsIsHelpError as request:
        click.echo(request.format_message())
        return UsageError.exit_code
    except click.UsageError as error:
        return failures.show(failures.from_click(error), as_json=as_json)
    except BrokenPipeError:
        return EXIT_BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort):
        return failures.show_interrupted(EXIT_INTERRUPTED, as_json=as_json)
    except interrupts.Terminated:
        return failures.show_interrupted(EXIT_TERMINATED, as_json=as_json)
    except Exception as error:  # noqa: BLE001 - the last line of defence, so that no traceback ever reaches a user
        interrupted = interrupts.received()
        if interrupted is not None:
            return failures.show_interrupted(interrupted, as_json=as_json)
        known = error if isinstance(error, EdgecError) else failures.from_system(error)
        if known is not None:
            return failures.show(known, as_json=as_json)
        return failures.show_bug(error, EXIT_BUG, as_json=as_json)
