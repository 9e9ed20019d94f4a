"""Read rows and preference pairs from a file of JSON lines."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from prefreg.axes import PreferencePair, Row
from prefreg.errors import DataError

_OPENERS = {".jsonl": open, ".jsonl.gz": gzip.open}


def read_preference_file(path: Path) -> Iterator[tuple[int, PreferencePair]]:
    """Yield the pairs of a `.jsonl` or `.jsonl.gz` file with their line numbers.

    Each line is a row of TRL's preference format; columns other than `prompt`, `chosen`,
    `rejected` and `group` are ignored. No line is skipped.

    Raises:
        DataError: The file or one of its lines cannot be read; the message names both.
    """
    for line_number, row in read_rows(path):
        try:
            pair = PreferencePair.from_row(row)
            if not encodable(pair):
                raise DataError("a text holds half of a surrogate pair, which is no character")
        except DataError as error:
            raise DataError(f"{path}:{line_number}: {error}") from error
        yield line_number, pair


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a `.jsonl` or `.jsonl.gz` file with their line numbers; skip no line.

    Raises:
        DataError: The file or one of its lines cannot be read; the message names both.
    """
    line_number = 0
    with _open(path) as file:
        for line_number, line in enumerate(_lines(path, file), start=1):
            try:
                row = _read_line(line, first=line_number == 1)
            except DataError as error:
                raise DataError(f"{path}:{line_number}: {error}") from error
            yield line_number, row
    if not line_number:
        raise DataError(f"{path} is empty: it needs one JSON object a line.")


def encodable(pair: PreferencePair) -> bool:
    """Whether the texts of a pair can be written as UTF-8 (a lone surrogate cannot)."""
    try:
        json.dumps(
            (pair.prompt, pair.chosen, pair.rejected, pair.group), ensure_ascii=False
        ).encode()
    except UnicodeEncodeError:
        return False
    return True


def _open(path: Path) -> IO[bytes]:
    for ending, opener in _OPENERS.items():
        if path.name.endswith(ending):
            try:
                return opener(path, "rb")  # type: ignore[operator,no-any-return]
            except FileNotFoundError:
                raise DataError(f"There is no data file {path}.") from None
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    raise DataError(f"{path} is neither a .jsonl nor a .jsonl.gz file.")


def _lines(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """Iterate over lines and give the errors of reading the name of the file."""
    try:
        yield from file
    except gzip.BadGzipFile as error:
        raise DataError(f"{path} is not a gzip file, as its name says: {error}.") from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file: {error}.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def _read_line(line: bytes, *, first: bool) -> Row:
    try:
        text = line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"the line is not UTF-8 (byte {error.start + 1})") from error
    if not text.strip():
        raise DataError("the line is empty")
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"broken JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise DataError("broken JSON: nested too deeply") from error
    if not isinstance(row, dict):
        raise DataError(f"the line is a JSON {type(row).__name__}, not an object with columns")
    return row
