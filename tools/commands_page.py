"""Write docs/commands.md from the commands themselves and from commands_notes.md beside this file.

The notes have what no help text says, by command: explanations, and the shape of the JSON document
beneath the command that shows it. `python tools/commands_page.py` writes the page anew.
"""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from prefreg.cli.main import prefreg
from prefreg.cli.options import RequestOption, common_options

PAGE = Path(__file__).parent.parent / "docs" / "commands.md"
NOTES = Path(__file__).with_name("commands_notes.md")
_WIDTH = 110


def page() -> str:
    """Return the whole page."""
    head, *parts = re.split(r"^## ", NOTES.read_text("utf-8"), flags=re.MULTILINE)
    notes = dict(part.split("\n", 1) for part in parts)
    group = click.Context(prefreg, info_name="prefreg")
    commands = dict(_walk(prefreg, group))
    if unknown := notes.keys() - commands.keys():
        raise SystemExit(f"{NOTES.name} has notes on what is no command: {', '.join(unknown)}.")
    common = "\n".join(_option_lines(option, group) for option in common_options())
    sections = [head.replace("COMMON OPTIONS", common).strip()]
    known: dict[str, tuple[str, str]] = {}
    for name, command in commands.items():
        sections.append(_section(name, command, notes.get(name, "").strip(), group, known))
    return "\n\n".join(sections) + "\n"


def _walk(
    group: click.Group, context: click.Context, before: str = ""
) -> Iterator[tuple[str, click.Command]]:
    """Name every command, those of groups by both names."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _walk(command, context, f"{before}{name} ")
        elif command is not None:
            yield f"{before}{name}", command


def _section(
    name: str,
    command: click.Command,
    note: str,
    group: click.Context,
    known: dict[str, tuple[str, str]],
) -> str:
    """Write what is to be known of one command; `known` has the options of those before it."""
    context = click.Context(command, info_name=name, parent=group)
    heading = " ".join([name, *command.collect_usage_pieces(context)[1:]])
    parts = [f"## {heading}", *_paragraphs(command.help or "")]
    own, shared = [], dict[str, list[str]]()
    common = {"--help", *(option.opts[-1] for option in common_options())}
    for option in command.get_params(context):
        if not isinstance(option, click.Option) or option.opts[-1] in common:
            continue
        lines = _option_lines(option, context)
        if isinstance(option, RequestOption):
            first, flag = known.setdefault(lines, (heading, option.opts[-1]))
            if first != heading:
                shared.setdefault(first, []).append(flag)
                continue
        own.append(lines)
    if own:
        parts.append("\n".join(own))
    if shared:
        as_of = "; ".join(_as_of(first, flags) for first, flags in shared.items())
        parts += _paragraphs(f"Options {as_of}.")
    return "\n\n".join([*parts, note] if note else parts)


def _as_of(heading: str, flags: list[str]) -> str:
    names = ", ".join(f"`{flag}`" for flag in flags)
    return f"as of [`{heading.split()[0]}`](#{anchor(heading)}): {names}"


def _option_lines(option: click.Option, context: click.Context) -> str:
    flags, text = option.get_help_record(context) or ("", "")
    said = f"- `{flags}`: {' '.join(text.split())}" if text else f"- `{flags}`"
    return textwrap.fill(said, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        yield textwrap.fill(" ".join(paragraph.split()), _WIDTH, break_on_hyphens=False)


def anchor(heading: str) -> str:
    """Return the anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
