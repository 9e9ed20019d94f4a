"""Where the command line begins: an interrupt is heard before anything else is loaded."""

import gc
import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130
_IMPORTS = "<frozen importlib._bootstrap>"


def main() -> None:
    """Run the command line and exit with the code that the contract names."""
    _hold_streams()
    # Whoever starts a program that must not be interrupted has it ignore the signal.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    # Read by what torch computes with. A thread that spins while it waits for another takes the
    # core that the other needs where a machine is busy: twenty times the time, as measured.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Libraries make objects by the hundred thousand that stay. Looking for garbage among them, as
    # they are loaded and at the end, would take a third of the time of a short command.
    gc.set_threshold(20_000)
    try:
        from prefreg.cli.main import run

        code = run()
    except KeyboardInterrupt:
        _say_interrupted()
        code = INTERRUPTED
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: only the libraries tidy up
    gc.freeze()
    sys.exit(code)


def _hold_streams() -> None:
    """Put nothing in the place of streams that were closed: the next file opened would take it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number is free
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - it stays open


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Raise an interrupt, or end at once in an import.

    Libraries that are being loaded swallow an exception, turn it into another one, or abort.
    """
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTS:
            _say_interrupted()
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt


def _say_interrupted() -> None:
    # A spinner may stand on the line, and bars hide the cursor.
    tidy = "\r\x1b[K\x1b[?25h" if sys.stderr.isatty() else ""
    print(f"{tidy}\nInterrupted.", file=sys.stderr, flush=True)
