"""The group of commands, and the one place where errors become exit codes."""

import io
import os
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

import click

from prefreg import launch
from prefreg.cli import (
    axis_commands,
    chat_commands,
    choosing_commands,
    completion_commands,
    composition_commands,
    dial_commands,
    evaluation_commands,
    preset_commands,
    registry_commands,
    serving_commands,
    sharing_commands,
    training_commands,
    vector_commands,
)
from prefreg.cli.entry import INTERRUPTED
from prefreg.cli.options import Common, common_options
from prefreg.cli.tables import colours
from prefreg.config import debugging
from prefreg.errors import PrefregError, UsageError
from prefreg.wording import as_options, escape, hide_password, is_unicode, presentable

BUG = 70
_OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|can't allocate memory")
_WHOLE = 500
"""Letters of a summary: no first sentence has as many."""

_EPILOG = """\b
Examples:
  prefreg axes
  prefreg add-axis verbosity
  prefreg compose helpful:1 harmless:0.5 verbose:-0.3
  prefreg generate verbosity:1 --prompt "Which colour is Elsa's boat?"
"""


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of a first visit, not of the alphabet

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by what they are for, each with its whole first sentence."""
        widest = max(map(len, self.commands))
        for title, commands in _GROUPS.items():
            with formatter.section(title):
                said = [(each.name or "", each.get_short_help_str(_WHOLE)) for each in commands]
                formatter.write_dl([(name.ljust(widest), text) for name, text in said])


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
    context.color = colours()


_GROUPS = {
    "See what it does": [evaluation_commands.demo, evaluation_commands.reproduce],
    "Axes": axis_commands.COMMANDS,
    "Make vectors": [*training_commands.COMMANDS, *vector_commands.MAKING],
    "Use vectors": [*composition_commands.COMMANDS, preset_commands.preset],
    "Serve them live": [*serving_commands.COMMANDS, *chat_commands.COMMANDS],
    "Measure": evaluation_commands.COMMANDS,
    "Tune dials": [*choosing_commands.COMMANDS, *dial_commands.COMMANDS],
    "Look at what is stored": [
        *vector_commands.LOOKING,
        registry_commands.search,
        registry_commands.report,
    ],
    "Share": sharing_commands.COMMANDS,
    "Care for it": [*vector_commands.NAMING, *registry_commands.COMMANDS],
    "This installation": [registry_commands.doctor, completion_commands.completion],
}
for _commands in _GROUPS.values():
    for _command in _commands:
        prefreg.add_command(_command)


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
        if launch.tells():
            _say(as_options(presentable(shown.getvalue().rstrip())))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        # click turns an interrupt into its own error; what ours says is that of the cause.
        if launch.tells():
            _say(str(error) or str(error.__cause__ or "") or "Interrupted.")
        return INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:
        # The reader went away (`prefreg vectors | head`): click wraps stdout and exits with 1.
        if isinstance(error, SystemExit) and sys.stdout is stdout:
            raise
        # Keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # The system refuses: a name that is too long or forbidden, a folder, a full disk.
        what = "What was to be written or read" if error.filename is None else error.filename
        return _fail(f"{what}: {error.strerror or error}.", PrefregError.exit_code)
    except Exception as error:
        # The allocators of torch raise errors of their own.
        if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(f"{type(error)} {error}"):
            return _fail("There is not enough memory for this.", PrefregError.exit_code)
        return _fail(
            f"This is a bug in prefreg: {type(error).__name__}: {error}\n"
            "Run it again with PREFREG_DEBUG=1 and report the traceback, the command "
            "and the output of `prefreg doctor`.",
            BUG,
        )


def _fail(message: str, code: int) -> int:
    if not launch.tells():
        return code
    if debugging():
        _say(escape(hide_password(traceback.format_exc())).rstrip())
    _say(f"{click.style('Error:', fg='red')} {as_options(presentable(message))}")
    return code


def _say(text: str) -> None:
    with suppress(OSError):  # where nobody can be told, the exit code says it
        click.echo(text, err=True, color=colours())
