"""The entry point: the group of commands, and the one place where errors become exit codes."""

import io
import os
import sys
import traceback
from collections.abc import Sequence

import click

from prefreg.cli import (
    axis_commands,
    composition_commands,
    dial_commands,
    evaluation_commands,
    registry_commands,
    training_commands,
    vector_commands,
)
from prefreg.cli.options import Common, common_options
from prefreg.config import debugging
from prefreg.errors import PrefregError, UsageError
from prefreg.wording import as_options, is_unicode, presentable

INTERRUPTED = 130
BUG = 70

_EPILOG = """\b
Examples:
  prefreg axes
  prefreg add-axis verbosity
  prefreg compose helpful:1 harmless:0.5 verbose:-0.3
  prefreg generate helpful:1 --prompt "What colour is the boat?"
"""


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of a first visit, not of the alphabet


@click.group(
    cls=_Group,
    epilog=_EPILOG,
    params=common_options(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="prefreg")
@click.pass_context
def prefreg(context: click.Context) -> None:
    """A registry of preference vectors: θ = θ_base + Σ ηᵢ·φᵢ."""
    context.ensure_object(Common)


for entry in (
    evaluation_commands.demo,
    *axis_commands.COMMANDS,
    *training_commands.COMMANDS,
    *composition_commands.COMMANDS,
    *evaluation_commands.COMMANDS,
    *dial_commands.COMMANDS,
    *vector_commands.COMMANDS,
    *registry_commands.COMMANDS,
):
    prefreg.add_command(entry)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the code that the contract names."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    stdout = sys.stdout
    for text in sys.argv[1:] if arguments is None else arguments:
        if not is_unicode(text):
            return _fail(f"{text!r} holds bytes that are no UTF-8.", UsageError.exit_code)
    try:
        # click hands back the code of an early exit (--help), else the command's own result.
        code = prefreg.main(arguments, prog_name="prefreg", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except PrefregError as error:
        return _fail(str(error), error.exit_code)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        click.echo(as_options(presentable(shown.getvalue().rstrip())), err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        # click turns an interrupt into its own error; what ours says is that of the cause.
        click.echo(str(error) or str(error.__cause__ or "") or "Interrupted.", err=True)
        return INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:
        # The reader went away (`prefreg vectors | head`): click wraps stdout and exits with 1.
        if isinstance(error, SystemExit) and sys.stdout is stdout:
            raise
        # Keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _fail(
            f"This is a bug in prefreg: {type(error).__name__}: {error}\n"
            "Run it again with PREFREG_DEBUG=1 and report the traceback, the command "
            "and the output of `prefreg doctor`.",
            BUG,
        )


def _fail(message: str, code: int) -> int:
    if debugging():
        traceback.print_exc()
    click.echo(f"Error: {as_options(presentable(message))}", err=True)
    return code
