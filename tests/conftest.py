import gc
import os
import signal

import pytest
from hypothesis import settings

from packages import site
from servers import bucket, endpoint, server, url
from trained import surroundings, trained

# Fixtures of every test.
__all__ = ["bucket", "endpoint", "server", "site", "surroundings", "trained", "url"]

collect_ignore = ["vllm_engine"]  # `make test-vllm` runs it, in an environment of its own

# What ships would be in every listing; set before any fixture makes a registry.
os.environ["PREFREG_NO_STARTER"] = "1"
# Lines of progress, which a busy machine would put among what is compared.
os.environ["PREFREG_LOG_SECONDS"] = "3600"

# A shell has what it starts in the background ignore interrupts, and so would what tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: two busy cores are slower than any; no data base: tests leave nothing behind.
settings.register_profile("steady", deadline=None, database=None)
settings.load_profile("steady")

# Libraries make objects by the hundred thousand that stay. Trainers look for garbage among them
# after every run; that would be two thirds of the time of a tiny model's.
gc.set_threshold(20_000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow files, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """Leave what the imports of all tests have made out of the search for garbage."""
    gc.freeze()
