"""Where rows come from: JSON lines and the hub, mixed, under the licences of their data."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from prefreg.axes.axis import Axis, LicensedSource, PreferencePair, Row, SourceRequest, SourceRows
from prefreg.errors import DataError, reason, unreadable

_OPENERS = {".jsonl": open, ".jsonl.gz": gzip.open}


def read_preference_file(path: Path) -> Iterator[tuple[int, PreferencePair]]:
    """Yield the pairs of a `.jsonl` or `.jsonl.gz` file with their line numbers.

    Each line is a row of TRL's preference format; columns other than `prompt`, `chosen`,
    `rejected` and `group` are ignored. No line is skipped.
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
    """Yield the rows of a `.jsonl` or `.jsonl.gz` file with their line numbers; skip no line."""
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


def check_licence(axis: Axis, source: str, *, accepted: bool) -> str | None:
    """Return what to show about the licence of a source's data; None if it allows every use."""
    licence = axis.licence_of(source)
    if licence is None or not forbids_commercial_use(licence):
        return None
    found = axis.sources[source]
    named = found.dataset if isinstance(found, LicensedSource) else f"source {source!r}"
    fact = f"{axis.name}: {named} is under {licence}, which forbids commercial use"
    if not accepted:
        raise DataError(f"{fact}. Accept it with --accept-licence, or pass other data with --data.")
    return f"{fact} (accepted)."


def _open(path: Path) -> IO[bytes]:
    for ending, opener in _OPENERS.items():
        if path.name.endswith(ending):
            try:
                return opener(path, "rb")  # type: ignore[operator,no-any-return]
            except FileNotFoundError:
                raise DataError(f"There is no data file {path}.") from None
            except OSError as error:
                raise unreadable(path, error, DataError) from error
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
        raise unreadable(path, error, DataError) from error


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
