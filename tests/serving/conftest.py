from collections.abc import Iterator

import pytest

from served import Served, serving


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Return a server of pocket with what ships, whose registry no test may change."""
    with serving(tmp_path_factory.mktemp("served")) as running:
        yield running
