"""Stream rows of a data set from the Hugging Face Hub."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from prefreg.axes import Row, SourceRequest, SourceRows
from prefreg.errors import DataError


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
    if isinstance(error, OSError) or origin.startswith(("http", "requests", "aiohttp")):
        return DataError(
            f"Data set {dataset_id} cannot be reached ({_line(error)}): check the network, "
            "or pass a file with --data FILE.jsonl."
        )
    return DataError(f"Data set {dataset_id} cannot be read: {_line(error)}. See {page}.")


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())[:200].rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
