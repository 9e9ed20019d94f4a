from pathlib import Path

import pytest

from prefreg.errors import TrainingError
from prefreg.training.resources import (
    MemoryNeed,
    check_disk,
    check_memory,
    hardware,
    package_versions,
)


def test_memory_that_is_too_small_says_what_to_lower() -> None:
    check_memory(MemoryNeed(1, 1, 1))
    huge = 1 << 60
    with pytest.raises(TrainingError, match="lower per_device_train_batch_size"):
        check_memory(MemoryNeed(1, huge, 1))
    with pytest.raises(TrainingError, match="the base is too large for this machine"):
        check_memory(MemoryNeed(huge, 1, 1))


def test_a_disk_that_is_too_small_is_named(tmp_path: Path) -> None:
    check_disk(tmp_path, 1)
    with pytest.raises(TrainingError, match=r"needs 1048576\.0 TiB"):
        check_disk(tmp_path, 1 << 60)


def test_what_a_result_depends_on_is_named() -> None:
    assert {"torch", "trl", "transformers", "python"} <= set(package_versions())
    assert hardware()
