"""The chat: over a pipe, on a terminal, and what an interrupt ends."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import prefreg.cli.main

STARTER = Path(__file__).parent.parent.parent / "registry.db"
QUESTION = "Which colour is Elsa's boat?"
Chat = Callable[..., None]


class Terminal(io.StringIO):
    """A stream that says that it is a terminal; `written` is called with what is written."""

    def __init__(self, text: str = "", written: Callable[[str], None] = lambda text: None) -> None:
        super().__init__(text)
        self.written = written

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.written(text)
        return super().write(text)


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """Return a copy of the registry that ships."""
    return Path(shutil.copy(STARTER, tmp_path / "own.db"))


@pytest.fixture
def pipe(run, shipped: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a chat with lines as its standard input."""

    def call(*lines: str, options: tuple[str, ...] = ()):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return run("--registry", shipped, "chat", "--base", "pocket", *options)

    return call


def test_over_a_pipe_lines_are_messages_and_stdout_is_the_answers(pipe, run, shipped) -> None:
    plain = run("--registry", shipped, "generate", "-p", QUESTION, "--base", "pocket").out
    steered = run("--registry", shipped, "generate", "verbosity:1.5", "-p", QUESTION).out
    assert plain != steered
    found = pipe(
        QUESTION, "", "/set verbosity 1.5", "/new", "Which colour \\", "is Elsa's boat?",
        "/new", "/compare", QUESTION, "/compare off", "/save long", "/reset", "/retry",
    )  # fmt: skip
    assert found.code == 0
    both = f"[verbosity:1.5]\n{steered}[base]\n{plain}"
    answers = found.out.removeprefix(plain)
    # A line that goes on is one message with a break in it, which the base may take otherwise.
    assert answers.endswith(both + plain)
    assert answers.removesuffix(both + plain).count("\n") == 1
    assert "base + 1.5·verbosity@1" in found.err
    assert "long@1 is verbosity:1.5." in found.err
    assert run("--registry", shipped, "preset", "show", "long", "--json").data["versions"]


def test_a_document_has_what_was_said(pipe) -> None:
    options = ("--json", "--compare")
    found = pipe(QUESTION, "/set helpful:1[answer]", "And Tom's?", options=options)
    turns = found.data["turns"]
    assert [turn["message"] for turn in turns] == [QUESTION, "And Tom's?"]
    assert [each["terms"] for each in turns[1]["answers"]] == [["helpful:1[answer]"], []]
    assert all(each["answer"] for turn in turns for each in turn["answers"])


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("/sett helpful 1", 2, "There is no command /sett. Did you mean 'set'?"),
        ("/set helpfull 1", 1, "Did you mean 'helpful'?"),
        ("/set", 2, "Say which dial"),
        ("/set helpful one", 2, "'one' in 'helpful:one' is not a number"),
        ("/set helpful nan", 2, "is not a number"),
        ("/set calm", 2, "nor the name of a preset"),
        ("/save", 2, "Give the setting a name"),
        ("/save calm", 2, "at least one term"),
        ("/retry", 2, "Nothing was asked yet"),
        ("/axes helpful", 2, "/axes takes nothing after it"),
        ("Hello \udcff", 2, "Standard input is no UTF-8 text"),
        ("so " * 3000, 2, "does not fit the model's context"),
    ],
)
def test_over_a_pipe_what_is_wrong_ends_the_chat(pipe, line: str, code: int, said: str) -> None:
    found = pipe(line, QUESTION)
    assert (found.code, found.out) == (code, "")
    assert said in found.err


def test_what_no_longer_fits_the_context_is_said(pipe) -> None:
    found = pipe(*[QUESTION] * 12, options=("--max-new-tokens", "128"))
    assert found.code == 0
    assert "The model's context has no room for the first" in found.err
    assert len(found.out.splitlines()) == 12


def test_on_a_terminal_errors_are_told_and_the_chat_goes_on(
    shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["/set helpfull 1", "/axes", "/help", "/presets", "/set helpful 9", QUESTION, "/quit"]
    shown = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal("\n".join(lines) + "\n"))
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setattr("sys.stderr", shown)
    arguments = ["--registry", str(shipped), "chat", "--base", "pocket"]
    assert prefreg.cli.main.run(arguments) == 0
    text = shown.getvalue()
    places = [
        text.index(part)
        for part in ("Did you mean 'helpful'", "Courteous wording", "/compare", "No presets yet",
                     "helpful@1 at 9 is outside its range", "base + 9·helpful@1")
    ]  # fmt: skip
    assert places == sorted(places)


def test_an_interrupt_ends_the_answer_and_then_the_chat(
    shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = iter([f"{QUESTION}\n", "/set verbosity 1\n"])
    hurry = [False]

    class Keyboard(Terminal):
        def readline(self, _: int | None = -1) -> str:
            line = next(asked, None)
            if line is None:
                raise KeyboardInterrupt
            hurry[0] = line.startswith("Which")
            return line

    def interrupt(text: str) -> None:
        if hurry[0] and text.strip() and ">" not in text:
            hurry[0] = False
            raise KeyboardInterrupt

    shown = Terminal(written=interrupt)
    monkeypatch.setattr("sys.stdin", Keyboard())
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setattr("sys.stderr", shown)
    arguments = ["--registry", str(shipped), "chat", "--base", "pocket"]
    assert prefreg.cli.main.run(arguments) == 130
    text = shown.getvalue()
    assert text.index("(stopped)") < text.index("1·verbosity@1") < text.index("Interrupted.")
