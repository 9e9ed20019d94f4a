"""What a terminal shows: a sign of life, tables that fit, colours; what an interrupt leaves."""

import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

import prefreg
from prefreg.cli.options import Common
from prefreg.cli.printing import progress_bars
from prefreg.cli.tables import heading, sections, table
from prefreg.errors import Interrupted, UsageError


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.fixture
def attach(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Terminal]:
    """Make standard output and standard error a terminal of so many columns."""

    def call(columns: int) -> Terminal:
        made = Terminal()
        monkeypatch.setattr("sys.stdout", made)
        monkeypatch.setattr("sys.stderr", made)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        return made

    return call


def test_what_takes_long_shows_a_sign_of_life_and_wipes_it_away(attach) -> None:
    terminal = attach(60)
    with Common().waiting("thinking"):
        time.sleep(0.25)
    assert "thinking" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_what_is_quick_quiet_or_for_programs_shows_none(attach) -> None:
    terminal = attach(60)
    with Common().waiting("thinking"):
        pass
    for common in (Common(json=True), Common(quiet=True)):
        with common.waiting("thinking"):
            time.sleep(0.15)
    assert terminal.getvalue() == ""


def test_a_note_stands_on_a_line_of_its_own(attach) -> None:
    terminal = attach(60)
    common = Common()
    with common.waiting("thinking"):
        time.sleep(0.15)
        common.note("Base model: pocket.")
        time.sleep(0.15)
    assert "\r\x1b[KBase model: pocket.\n" in terminal.getvalue()


HEADERS = ("NAME", "EMPTY", "SIZE", "TAGS", "NOTE")
ROWS = [
    ("helpful@1", "-", "1.6 MiB", "a,b,c,d,e,f,g,h", "made for the first of all tests"),
    ("harmless@12", "", "10.1 MiB", "a", "short"),
]


def shown(text: str) -> list[str]:
    return click.unstyle(text).splitlines()


def test_no_value_looks_like_the_next_row_or_moves_the_cursor() -> None:
    hostile = "mine\nhelpful@9 stable\x1b[2J\x07"
    shown = r"mine helpful@9 stable\x1b[2J\x07"
    assert table(["NOTE"], [[hostile]]).splitlines()[1] == shown
    assert sections({"note": hostile}) == f"note  {shown}"


def test_away_from_a_terminal_a_table_is_whole() -> None:
    head, first, _ = shown(table(HEADERS, ROWS, spare=("TAGS",)))
    assert head.split() == list(HEADERS)
    assert all(cell in first for cell in ROWS[0])


def test_a_table_drops_what_is_empty_then_what_is_spare(attach) -> None:
    attach(60)
    assert shown(table(HEADERS, ROWS, spare=("TAGS", "SIZE"))) == [
        "NAME         SIZE      NOTE",
        "helpful@1    1.6 MiB   made for the first of all tests",
        "harmless@12  10.1 MiB  short",
        "(TAGS: there is no room for them; --json has all.)",
    ]


def test_a_table_folds_its_last_column_and_is_continued_below(
    attach,
) -> None:
    attach(46)
    long = [(*ROWS[0][:4], "made for the first of all tests that there were")]
    assert shown(table(HEADERS, long)) == [
        "NAME       SIZE     TAGS",
        "helpful@1  1.6 MiB  a,b,c,d,e,f,g,h",
        "",
        "NAME       NOTE",
        "helpful@1  made for the first of all tests",
        "           that there were",
    ]


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", ["vectors", "axes", "bases", "reproduce", "show helpful@1"])
def test_what_is_listed_fits_the_terminal(
    attach, columns: int, command: str, trained: Path
) -> None:
    terminal = attach(columns)
    prefreg.cli.main.run(["--registry", str(trained), *command.split()])
    lines = shown(terminal.getvalue().rpartition("\x1b[K")[2])
    assert len(lines) > 2
    assert [line for line in lines if len(line) > columns] == []


def test_named_values_are_folded_below_each_other(attach) -> None:
    attach(60)
    text = sections({"a": "word " * 20, "longer": 1})
    assert all(line.startswith(" " * 8) for line in text.splitlines()[1:-1])
    assert max(map(len, text.splitlines())) <= 60


def test_the_capital_of_eta_is_not_an_h() -> None:
    assert heading("kl at η 1") == "KL AT η 1"


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_are_left_out_on_request(
    attach, monkeypatch: pytest.MonkeyPatch, trained: Path, variable: str, value: str
) -> None:
    terminal = attach(60)
    command = ["--registry", str(trained), "vectors"]
    prefreg.cli.main.run(command)
    assert "\x1b[1m" in terminal.getvalue()
    terminal.truncate(0)
    monkeypatch.setenv(variable, value)
    prefreg.cli.main.run(command)
    prefreg.cli.main.run(["vectors", "--registry", "missing.db"])
    assert "\x1b[1m" not in terminal.getvalue()
    assert "\x1b[31m" not in terminal.getvalue()


def test_help_groups_the_commands_and_cuts_no_summary(run) -> None:
    text = run("--help").out
    assert text.index("\nMake vectors:\n") < text.index("  add-axis ")
    said = " ".join(text.split())
    for command in prefreg.cli.main.prefreg.commands.values():
        assert command.get_short_help_str(500) in said


INTERRUPTED = """
import os, signal, sys

class Hook:
    def find_spec(self, name, *_):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Hook())
from prefreg.cli.entry import main
sys.argv = ["prefreg", "vectors"]
main()
"""


@pytest.mark.parametrize("name", ["prefreg.cli.main", "sqlalchemy"])
def test_an_interrupt_while_something_is_loaded_is_told_in_a_line(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(name=name)],
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nInterrupted.\n")


@pytest.mark.parametrize(
    ("given", "used"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")]
)
def test_threads_that_wait_leave_their_core_to_others(given: dict[str, str], used: str) -> None:
    code = (
        "import sys\n"
        "from prefreg.cli.entry import main\n"
        "sys.argv = ['prefreg', 'doctor', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "import os\n"
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment | given,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == used


def test_an_interrupted_sweep_says_how_to_go_on(trained: Path, tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int, loss: float | None = None, /) -> None:
        if stage == "settings":
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"1 of 2 settings are .*: the same command goes on"):
        prefreg.open(trained).sweep(
            ["helpful=0,1"], tmp_path / "out", progress=interrupt, prompts=5, max_new_tokens=4
        )


def test_a_log_says_now_and_then_where_a_run_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFREG_LOG_SECONDS", "0.05")
    with progress_bars(Common()) as report:
        assert report is not None
        time.sleep(0.08)
        report("positive", 3, 80, 0.25)
        time.sleep(0.12)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "… 0 s: loading"
    assert said[-1] == "… 0 s: positive 3 of 80, loss 0.250"
    with progress_bars(Common()) as report:
        assert report is not None
        report("positive", 3, 80)
        time.sleep(0.1)
        report("positive", 4, 80, 0.25)
        time.sleep(0.12)
    said = capsys.readouterr().err.splitlines()
    found = re.fullmatch(r"… 0 s: positive 4 of 80, loss 0\.250, (.*) s left", said[-1])
    assert found is not None
    assert float(found[1]) > 7  # 76 steps as long as the one of a tenth of a second
    with progress_bars(Common(quiet=True)) as report:
        assert report is None
    monkeypatch.setenv("PREFREG_LOG_SECONDS", "soon")
    with (
        pytest.raises(UsageError, match="PREFREG_LOG_SECONDS='soon' is no number"),
        progress_bars(Common()),
    ):
        pass
