from pathlib import Path

import pytest
from transformers import Gemma3nTextConfig

from prefreg.errors import TrainingError
from prefreg.training.resources import (
    MemoryNeed,
    check_disk,
    check_memory,
    estimate_memory,
    hardware,
    package_versions,
)
from prefreg.training.settings import resolve_settings


def test_memory_that_is_too_small_says_what_to_lower() -> None:
    check_memory(MemoryNeed(1, 1, 1))
    huge = 1 << 60
    with pytest.raises(TrainingError, match="lower per_device_train_batch_size"):
        check_memory(MemoryNeed(1, huge, 1))
    with pytest.raises(TrainingError, match="the base is too large for this machine"):
        check_memory(MemoryNeed(huge, 1, 1))


def test_a_width_that_is_said_layer_by_layer_counts_as_the_largest() -> None:
    def config(width: int | list[int]) -> Gemma3nTextConfig:
        return Gemma3nTextConfig(num_hidden_layers=2, intermediate_size=width)

    needs = [
        estimate_memory(config(width), 10, resolve_settings(), 16)
        for width in (48, [48, 48], [16, 48])
    ]
    assert needs[0] == needs[1] == needs[2]


def test_a_disk_that_is_too_small_is_named(tmp_path: Path) -> None:
    check_disk(tmp_path, 1)
    with pytest.raises(TrainingError, match=r"needs 1048576\.0 TiB"):
        check_disk(tmp_path, 1 << 60)


def test_what_a_result_depends_on_is_named() -> None:
    assert {"torch", "trl", "transformers", "python"} <= set(package_versions())
    assert hardware()
