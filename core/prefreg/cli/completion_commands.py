"""Completion in shells: the script that each sources, and what bash needs beyond click's own."""

import os

import click
from click.shell_completion import (
    BashComplete,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from prefreg.cli.options import Common, command

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_PREFREG_COMPLETE"
"""Where click looks for what a shell asks."""


@add_completion_class
class _Bash(BashComplete):
    """Bash cuts words at `@`, `:` and `=`, which versions and terms are made with."""

    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n' completion kind value
    for completion in $(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" \\
        COMP_WORDBREAKS="$COMP_WORDBREAKS" %(complete_var)s=bash_complete "$1"); do
        IFS=',' read -r kind value <<< "$completion"
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def source(self) -> str:
        """Write the script, whatever bash is on the path."""
        return ShellComplete.source(self)

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor, and the one that it stands in."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)
        written = "" if line[-1:].isspace() else words.pop()
        return words[1:], written

    def complete(self) -> str:
        """Offer what follows the last place where bash cuts the word, which it leaves as it is."""
        args, written = self.get_completion_args()
        cuts = os.environ.get("COMP_WORDBREAKS", "")
        kept = written[: 1 + max((written.rfind(cut) for cut in cuts), default=-1)]
        return "\n".join(
            f"{item.type},{item.value.removeprefix(kept)}"
            for item in self.get_completions(args, written)
        )


@command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, common: Common, shell: str) -> None:
    """Print the script that lets a shell complete commands, axes, versions, methods and bases.

    Bash and zsh take it by `eval "$(prefreg completion SHELL)"` in ~/.bashrc or ~/.zshrc, fish as
    the file ~/.config/fish/completions/prefreg.fish.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(context.find_root().command, {}, "prefreg", _VARIABLE).source().rstrip()
    common.emit("completion", {"shell": shell, "script": script}, script, asked=True)
