from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from hub_stand_in import WRITER, StandIn, stand_in


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Start a stand-in of the Hub that the client of this process speaks to, as a member of org.

    The client reads most of its environment once, when it is imported.
    """
    with stand_in() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        template = f"{found.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        # Of the two ways of large files this is the one that plain HTTP can stand in for.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield found
