"""Where rows come from: files and the hub, under the licences of their data.

An axis that nobody declares has the rows of a file, taken as they stand.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from prefreg.axes.axis import Axis, LicensedSource, PreferencePair, Row, SourceRequest, SourceRows
from prefreg.errors import DataError, reason, unreadable
from prefreg.files import open_regular

PLACE = "place"
"""The column in which a row may say where it stands: `rows.jsonl:7`."""
_LINES = (".jsonl", ".ndjson")
_PACKED = ("", ".gz", ".zst")
ROW_FILES = (
    *(lines + packed for lines in _LINES for packed in _PACKED),
    *(".json", ".csv", ".parquet"),
)
"""How the names of files of rows end."""
# Half of a surrogate pair can only come as an escape: as bytes it is no UTF-8.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_BATCH = 256
_LONGEST = 1 << 24
"""Bytes of a line: texts of four million tokens."""
_LARGEST = 1 << 30
"""Bytes of an array of rows."""


def axis_of_rows(name: str, aliases: tuple[str, ...] = ()) -> Axis:
    """Return an axis whose rows are files: what a row calls chosen lies along it."""

    def no_rows(request: SourceRequest) -> Iterable[Row]:
        raise DataError(f"The axis {name!r} has the rows that are given by --data, and no others.")

    return Axis(
        name=name,
        summary="Rows as they stand.",
        sources={"rows": no_rows},
        label=PreferencePair.from_row,
        aliases=aliases,
    )


def read_preference_file(path: Path) -> Iterator[tuple[int, PreferencePair]]:
    """Yield the pairs of a file of rows with their line numbers.

    Each row is one of TRL's preference format; other columns than those that
    `PreferencePair.from_row` reads are ignored. No row is skipped.
    """
    for number, row in read_rows(path):
        try:
            pair = PreferencePair.from_row(row)
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}") from error
        yield number, pair


def is_row_file(path: Path) -> bool:
    """Whether a file's name says that it holds rows."""
    return path.name.lower().endswith(ROW_FILES)


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a file with their numbers; skip none.

    The number is that of the line, or of the row where a file has no lines: in an array of JSON
    and in Parquet.
    """
    if not is_row_file(path):
        raise DataError(
            f"{path} is no file of rows: its name must end in {', '.join(ROW_FILES[:-1])} or "
            f"{ROW_FILES[-1]}."
        )
    name = path.name.lower()
    number = 0
    with _open(path) as file:
        if name.endswith(".parquet"):
            rows = _read_parquet(path, file)
        elif name.endswith(".csv"):
            rows = _read_csv(path, file)
        elif name.endswith(".json"):
            rows = _read_json(path, file)
        else:
            rows = _read_lines(path, enumerate(_lines(path, file), start=1))
        for number, row in rows:
            yield number, row
    if not number:
        raise DataError(f"{path} is empty: it has no row.")


def encodable(pair: PreferencePair) -> bool:
    """Whether the texts of a pair can be written as UTF-8 (a lone surrogate cannot)."""
    texts = (pair.prompt, pair.chosen, pair.rejected, pair.group, pair.tools, pair.template_options)
    try:
        json.dumps(texts, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def stream_hub_rows(
    dataset_id: str,
    *,
    split: str = "train",
    name: str | None = None,
    request: SourceRequest,
    columns: Sequence[str] = (),
) -> SourceRows:
    """Stream the first rows of a data set at a revision that is resolved and recorded.

    Rows arrive while they are read, so the errors below come up then, too.

    Raises:
        DataError: The data set is missing, gated, cannot be reached or lacks a column.
    """
    # datasets takes a second to import and brings pyarrow: only a run that reads a hub pays.
    import datasets
    from huggingface_hub import HfApi

    try:
        revision = HfApi().dataset_info(dataset_id, revision=request.revision).sha
        stream = datasets.load_dataset(
            dataset_id, name, split=split, streaming=True, revision=revision
        )
    except Exception as error:
        raise _explained(error, dataset_id, request.revision) from error
    rows = _read(stream, dataset_id, request.limit, tuple(columns), revision)
    return SourceRows(rows, origin=f"hf:{dataset_id}", revision=revision)


def forbids_commercial_use(licence: str) -> bool:
    """Whether a licence says so in its identifier, as CC-BY-NC-4.0 does."""
    words = re.split(r"[^a-z]+", licence.lower())
    return bool({"nc", "noncommercial"} & set(words)) or "non commercial" in " ".join(words)


def check_source_licence(axis: Axis, source: str, *, accepted: bool) -> str | None:
    """Return what to show about the licence of a source's data; None if it allows every use."""
    found = axis.sources[source]
    named = found.dataset if isinstance(found, LicensedSource) else f"source {source!r}"
    return check_licence(axis, named, axis.licence_of(source), accepted=accepted)


def check_licence(axis: Axis, data: str, licence: str | None, *, accepted: bool) -> str | None:
    """Return what to show about the licence of data, named so; None if it allows every use."""
    if licence is None or not forbids_commercial_use(licence):
        return None
    fact = f"{axis.name}: {data} is under {licence}, which forbids commercial use"
    if not accepted:
        raise DataError(f"{fact}. Accept it with --accept-licence, or pass other data with --data.")
    return f"{fact} (accepted)."


def _open(path: Path) -> IO[bytes]:
    try:
        open_regular(path).close()  # from a pipe or a device nothing would come, or no end of it
        if path.name.lower().endswith(".gz"):
            return gzip.open(path, "rb")  # type: ignore[return-value]
        if path.name.lower().endswith(".zst"):
            # Only few files are packed so, and pyarrow takes its time to load.
            import pyarrow

            return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
        return path.open("rb")
    except FileNotFoundError:
        raise DataError(f"There is no data file {path}.") from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error, DataError) from error


def _lines(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """Iterate over the lines of a file, whose length is bounded."""
    number = 0
    with _reading(path):
        while line := file.readline(_LONGEST + 1):
            number += 1
            if len(line) > _LONGEST:
                raise DataError(
                    f"{path}:{number}: the line has more than {_LONGEST >> 20} MiB, as no row has."
                )
            yield line


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Give the errors of reading the name of the file."""
    try:
        yield
    except gzip.BadGzipFile as error:
        raise DataError(f"{path} is not a gzip file, as its name says: {error}.") from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file: {error}.") from error
    except (OSError, ValueError) as error:
        raise unreadable(path, error, DataError) from error


def _read_lines(path: Path, lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, Row]]:
    for number, line in lines:
        try:
            row = _read_json_text(line, first=number == 1)
            if not isinstance(row, dict):
                raise DataError(
                    f"the line is a JSON {type(row).__name__}, not an object with columns"
                )
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}") from error
        yield number, row


def _read_json_text(content: bytes, *, first: bool) -> Any:
    try:
        text = content.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"the line is not UTF-8 (byte {error.start + 1})") from error
    if not text.strip():
        raise DataError("the line is empty")
    try:
        found = json.loads(text)
        if _HALF.search(content):
            json.dumps(found, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise DataError(f"broken JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise DataError("broken JSON: nested too deeply") from error
    except UnicodeEncodeError as error:
        raise DataError("a text holds half of a surrogate pair, which is no character") from error
    except ValueError as error:  # Python reads no number of thousands of digits
        raise DataError("broken JSON: a number has too many digits") from error
    return found


def _read_json(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Row]]:
    """Read an array of rows; a file that is called so but begins with a row has lines."""
    with _reading(path):
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise DataError(
            f"{path} has more than {_LARGEST >> 20} MiB, which an array takes in memory at once: "
            "write a row to a line, as .jsonl."
        )
    if not content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield from _read_lines(path, enumerate(io.BytesIO(content), start=1))
        return
    try:
        rows = _read_json_text(content, first=True)
    except DataError as error:
        raise DataError(f"{path}: {error}.") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(
                f"{path}:{number}: the row is a JSON {type(row).__name__}, not an object with "
                "columns"
            )
        yield number, row


def _read_csv(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Row]]:
    """Read rows of texts below a line with their names; an empty cell is no value."""
    lines = enumerate(_lines(path, file))
    texts = (line.decode("utf-8" if place else "utf-8-sig") for place, line in lines)
    reader = csv.reader(texts, strict=True)
    names: list[str] | None = None
    number = 1
    while True:
        try:
            cells = next(reader, None)
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{number}: the file is not UTF-8.") from error
        except csv.Error as error:
            raise DataError(f"{path}:{number}: broken CSV: {error}.") from error
        if cells is None:
            return
        if names is None:
            names = cells
            if len({*names}) < len(names):
                raise DataError(f"{path}:{number}: two columns of one name.")
        elif cells:
            if len(cells) != len(names):
                raise DataError(
                    f"{path}:{number}: {len(cells)} cells, where {len(names)} columns have names."
                )
            yield number, {name: cell or None for name, cell in zip(names, cells, strict=True)}
        number = reader.line_num + 1


def _read_parquet(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Row]]:
    """Read the rows of a table as its writer meant them."""
    import pyarrow.parquet  # takes its time to load

    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(file)
        schema = table.schema_arrow
        features = None
        if b"huggingface" in (schema.metadata or {}):
            # The types that datasets knows beyond those of the format, as JSON in a text.
            from datasets import Features

            features = Features.from_arrow_schema(schema)
        for batch in table.iter_batches(batch_size=_BATCH):
            for row in batch.to_pylist():
                number += 1
                yield number, features.decode_example(row) if features else row
    except Exception as error:  # pyarrow and datasets raise what they like
        place = f"{path}:{number}" if number else str(path)
        raise DataError(f"{place} is no Parquet file that can be read: {reason(error)}.") from error


def _read(
    stream: Any, dataset_id: str, limit: int | None, columns: tuple[str, ...], revision: str | None
) -> Iterator[Row]:
    rows = iter(islice(stream, limit))
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise _explained(error, dataset_id, revision) from error
        if missing := [column for column in columns if column not in row]:
            raise DataError(
                f"Data set {dataset_id} has no column {', '.join(map(repr, missing))} "
                f"(found: {', '.join(sorted(row))}). Pin a --revision that has it."
            )
        yield row


def _explained(error: Exception, dataset_id: str, revision: str | None) -> DataError:
    """Say in one line why a data set could not be read, and what to do."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/datasets/{dataset_id}"
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    # The Hub answers 401 for what does not exist, too; and GatedRepoError is a child of
    # RepositoryNotFoundError.
    missing = isinstance(error, errors.RepositoryNotFoundError)
    if isinstance(error, errors.GatedRepoError) or (status in (401, 403) and not missing):
        return DataError(
            f"Data set {dataset_id} is gated: accept its licence at {page}, "
            "then set HF_TOKEN to a token of that account."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return DataError(f"Data set {dataset_id} has no revision {revision!r}: see {page}.")
    if missing or status == 404:
        return DataError(
            f"There is no data set {dataset_id}, or it is private: see {page}, "
            "and set HF_TOKEN to a token that may read it."
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return DataError(
            f"Data set {dataset_id} cannot be read: HF_HUB_OFFLINE is set. "
            "Unset it, or pass a file with --data FILE.jsonl."
        )
    # The Hub's client has been requests, httpx and httpx2; datasets streams through aiohttp.
    origin = type(error).__module__
    told = reason(error).rstrip(".")
    if isinstance(error, OSError) or origin.startswith(("http", "requests", "aiohttp")):
        return DataError(
            f"Data set {dataset_id} cannot be reached ({told}): check the network, "
            "or pass a file with --data FILE.jsonl."
        )
    return DataError(f"Data set {dataset_id} cannot be read: {told}. See {page}.")
