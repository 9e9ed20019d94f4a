from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from prefreg.axes.axis import SourceRequest
from prefreg.axes.row_sources import _explained, _read, stream_hub_rows
from prefreg.errors import DataError

PAGE = "https://huggingface.co/datasets/org/set"


def response(status: int) -> Any:
    """Stand in for the response of the Hub's client, whose library differs by version."""
    return SimpleNamespace(status_code=status, headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GatedRepoError("no", response=response(403)), f"accept its licence at {PAGE}"),
        (HfHubHTTPError("no", response=response(401)), f"accept its licence at {PAGE}"),
        (RepositoryNotFoundError("no", response=response(401)), "There is no data set org/set"),
        (RevisionNotFoundError("no", response=response(404)), "has no revision 'v9'"),
        (OfflineModeIsEnabled("no"), "HF_HUB_OFFLINE is set"),
        (ConnectionError("refused"), "cannot be reached (ConnectionError: refused)"),
        (ValueError("Bad split: x"), "cannot be read: ValueError: Bad split: x"),
    ],
)
def test_each_failure_says_what_to_do(error: Exception, words: str) -> None:
    assert words in str(_explained(error, "org/set", "v9"))


def test_offline_is_an_error_that_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE is set.*--data FILE"):
        stream_hub_rows("org/set", request=SourceRequest())


def test_the_limit_and_the_columns_are_kept() -> None:
    rows = [{"prompt": "a"}, {"prompt": "b"}, {"question": "c"}]
    assert len(list(_read(rows, "org/set", 2, ("prompt",), None))) == 2
    with pytest.raises(DataError, match=r"has no column 'prompt' \(found: question\)"):
        list(_read(rows, "org/set", None, ("prompt",), None))
