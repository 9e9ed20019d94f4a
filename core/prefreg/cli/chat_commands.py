"""Chat on a terminal, with dials that are turned between messages; or over a pipe."""

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from prefreg.cli.options import TERM, Common, base_option, command, read_text, request_options
from prefreg.cli.tables import colours, table
from prefreg.config import cache_folder
from prefreg.errors import PrefregError, UsageError, did_you_mean
from prefreg.terms import Term, brief_eta, parse_term
from prefreg.wording import escape

if TYPE_CHECKING:
    from prefreg.serving.conversation import Answering, Conversation, Turn

_HISTORY = "chat-history"
_LONGEST_HISTORY = 1000


@command("chat")
@click.argument("terms", type=TERM, nargs=-1, metavar="[TERM...]")
@base_option("Base model: a name, folder, GGUF file or hub id.  [default: that of the terms]")
@click.option("--compare", is_flag=True, help="Have the base answer every message too.")
@request_options("Sampling")
def chat(
    common: Common, terms: tuple[Term, ...], base: str | None, compare: bool, **options: Any
) -> None:
    """Chat with live dials: /set helpful 1, then ask again. /help says what else there is.

    Away from a terminal every line of the input is a message, and what is written is the answers.
    A line that ends with a backslash goes on in the next. Ctrl-C ends the answer, then the chat.
    """
    with common.open_registry().chat(terms, base=base, **options) as conversation:
        if compare:
            conversation.compare(())
        common.spinner.stop()
        at_terminal = sys.stdin.isatty() and not common.json
        chat = _Chat(common, conversation, at_terminal)
        with _line_editing(chat) if at_terminal else contextlib.nullcontext():
            chat.run()
        if common.json:
            data = {
                "base": conversation.base,
                "turns": [turn.to_json() for turn in conversation.turns],
            }
            common.emit("chat", data, "")


class _Chat:
    """Reads lines, and does what they say."""

    def __init__(self, common: Common, conversation: "Conversation", at_terminal: bool) -> None:
        self._common = common
        self._conversation = conversation
        self._at_terminal = at_terminal
        self._done = False
        self.commands: dict[str, Callable[[str], None]] = {
            "set": self._set,
            "reset": self._reset,
            "axes": self._axes,
            "compare": self._compare,
            "save": self._save,
            "presets": self._presets,
            "retry": self._retry,
            "new": self._new,
            "help": self._help,
            "quit": self._quit,
        }

    def run(self) -> None:
        """Go on until the input ends."""
        if self._at_terminal:
            self._common.note(
                f"{click.style(self._conversation.formula, bold=True)}\n"
                "Ask something, or /help. Ctrl-D ends."
            )
        while not self._done:
            try:
                self._obey(self._read())
            except EOFError:
                if self._at_terminal:
                    self._common.note("")
                return
            except PrefregError as error:
                if not self._at_terminal:
                    raise
                self._common.note(f"{click.style('Error:', fg='red')} {error}")

    def completions(self, written: str) -> list[str]:
        """Return what a word may go on as, at the beginning of a line with /, else an axis."""
        if written.startswith("/"):
            return [f"/{name} " for name in self.commands if name.startswith(written[1:])]
        names = [each["name"] for each in self._conversation.axes()]
        names += [each.name for each in self._conversation.presets()]
        return [name for name in names if name.startswith(written)]

    def _read(self) -> str:
        """Read a message, which a backslash at the end of a line continues."""
        lines = [self._read_line("> ")]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            try:
                lines.append(self._read_line("… "))
            except EOFError:
                break
        return "\n".join(lines)

    def _read_line(self, prompt: str) -> str:
        if self._at_terminal:
            return read_text(lambda: input(prompt))
        line = read_text(sys.stdin.readline)
        if not line:
            raise EOFError
        return line.rstrip("\r\n")

    def _obey(self, text: str) -> None:
        if not text.strip():
            return
        if not text.startswith("/"):
            self._answer(lambda: self._conversation.ask(text))
            return
        name, _, rest = text[1:].partition(" ")
        if name not in self.commands:
            raise UsageError(
                f"There is no command /{name}.{did_you_mean(name, self.commands)} /help lists them."
            )
        self.commands[name](rest.strip())

    def _answer(self, ask: "Callable[[], Turn]") -> None:
        """Show the answers one below the other as they come; an interrupt ends them."""
        turn = ask()
        if self._conversation.left_out:
            self._common.note(
                f"(The model's context has no room for the first {self._conversation.left_out} "
                "of what was said.)"
            )
        try:
            for answer in turn.answers:
                self._show(answer, headed=len(turn.answers) > 1)
        except KeyboardInterrupt:
            for answer in turn.answers:
                answer.cancel()
            if not self._at_terminal:
                raise
            for answer in turn.answers:
                for _ in answer:
                    pass  # what was certain before stays in what was said
            self._common.note("\n(stopped)")

    def _show(self, answer: "Answering", *, headed: bool) -> None:
        if self._common.json:
            for _ in answer:
                pass
            return
        if headed:
            name = " ".join(map(str, answer.terms)) or "base"
            self._write(click.style(f"[{name}]", fg="cyan") + "\n")
        for piece in answer:
            self._write(escape(piece))
        self._write("\n")
        if answer.finish == "length":
            self._common.note("(cut: --max-new-tokens allows more)")

    def _write(self, text: str) -> None:
        click.echo(text, nl=False, color=colours())

    def _set(self, rest: str) -> None:
        self._warn(self._conversation.set(_read_terms(rest)))
        self._common.note(self._conversation.formula)

    def _reset(self, rest: str) -> None:
        _take_nothing("reset", rest)
        self._conversation.reset()
        self._common.note(self._conversation.formula)

    def _axes(self, rest: str) -> None:
        _take_nothing("axes", rest)
        at = {term.axis: term.eta for term in self._conversation.terms}
        rows = [
            (
                each["name"],
                brief_eta(at.get(each["name"], 0.0)),
                _describe_range(each["range"]),
                each["summary"] or "",
            )
            for each in self._conversation.axes()
        ]
        text = table(("DIAL", "AT", "RANGE", "WHAT MORE OF IT MEANS"), rows)
        self._common.note(text if rows else "This base has no vectors yet.")

    def _compare(self, rest: str) -> None:
        off = rest == "off" or (not rest and self._conversation.beside is not None)
        self._conversation.compare(None if off else _read_terms(rest) if rest else ())
        beside = self._conversation.beside
        self._common.note(
            "One answer to each message."
            if beside is None
            else f"Two answers to each message: by the dials, and by "
            f"{' '.join(map(str, beside)) or 'the base'}."
        )

    def _save(self, rest: str) -> None:
        if not rest:
            raise UsageError("Give the setting a name: /save calm")
        saved = self._conversation.save(rest)
        self._common.note(f"{saved} is {' '.join(map(str, saved.terms))}.")

    def _presets(self, rest: str) -> None:
        _take_nothing("presets", rest)
        rows = [
            (each.name, " ".join(map(str, each.terms))) for each in self._conversation.presets()
        ]
        text = table(("PRESET", "SETTING"), rows)
        self._common.note(text if rows else "No presets yet. /save NAME makes one.")

    def _retry(self, rest: str) -> None:
        _take_nothing("retry", rest)
        self._answer(self._conversation.retry)

    def _new(self, rest: str) -> None:
        _take_nothing("new", rest)
        self._conversation.forget()
        self._common.note("Nothing was said; the dials stay.")

    def _help(self, rest: str) -> None:
        _take_nothing("help", rest)
        self._common.note(table(("WRITE", "AND IT"), _HELP))

    def _quit(self, rest: str) -> None:
        _take_nothing("quit", rest)
        self._done = True

    def _warn(self, warnings: list[str]) -> None:
        for warning in warnings:
            self._common.note(f"{click.style('Warning:', fg='yellow')} {warning}")


_HELP = [
    ("/set helpful 1", "turns a dial; 0 lets it go"),
    ("/set helpful:1 verbosity:-0.5", "turns several"),
    ("/set calm", "sets all dials as a preset says"),
    ("/reset", "turns all dials to 0"),
    ("/axes", "lists the dials, where they stand, and their measured ranges"),
    ("/compare", "has the base answer too, or not any longer"),
    ("/compare harmless:1", "has other dials answer too; /compare off ends it"),
    ("/save calm", "saves the dials as a preset"),
    ("/presets", "lists the presets"),
    ("/retry", "asks the last message again, with the dials as they stand"),
    ("/new", "begins a new dialogue"),
    ("/quit, Ctrl-D", "ends the chat; Ctrl-C ends an answer first"),
    ("a line that ends with \\", "goes on in the next line"),
]


def _describe_range(found: dict[str, Any] | None) -> str:
    return "-" if found is None else f"{brief_eta(found['low'])} … {brief_eta(found['high'])}"


def _read_terms(text: str) -> list[Term]:
    """Read terms as on the command line, or an axis and its coefficient."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    if len(words) == 2 and ":" not in text:
        words = [":".join(words)]
    if not words:
        raise UsageError("Say which dial, as in /set helpful 1")
    return list(map(parse_term, words))


def _take_nothing(name: str, rest: str) -> None:
    if rest:
        raise UsageError(f"/{name} takes nothing after it.")


@contextlib.contextmanager
def _line_editing(chat: _Chat) -> Iterator[None]:
    """Give the input a memory over chats, and the Tab key a meaning, where Python can."""
    try:
        import readline
    except ImportError:
        yield
        return
    found: list[str] = []

    def complete(written: str, place: int) -> str | None:
        nonlocal found
        if place == 0:
            try:
                found = chat.completions(written)
            except Exception:  # there is no place for a message between two keys
                found = []
        return found[place] if place < len(found) else None

    file = cache_folder() / _HISTORY
    readline.set_completer(complete)
    readline.set_completer_delims(" \t\n:")
    readline.parse_and_bind("tab: complete")
    readline.set_history_length(_LONGEST_HISTORY)
    with contextlib.suppress(OSError):  # there is none yet, or it cannot be read
        readline.read_history_file(file)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(file)
            file.chmod(0o600)


COMMANDS = [chat]
