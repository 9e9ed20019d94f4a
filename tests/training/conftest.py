from collections.abc import Iterator
from pathlib import Path

import pytest

import worded
from prefreg.axes.axis import Axis
from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.data.pairs import PairSet, build_pairs
from prefreg.training.settings import Settings, resolve_settings


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what the fixtures of a session cache out of the user's folder."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFREG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """Return a base model that no test may change."""
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFREG_CACHE", str(folder / "cache"))
        return resolve_base(str(worded.save(folder / "model")))


@pytest.fixture(scope="session")
def axis() -> Axis:
    return Axis("red", "Red things.", {"none": lambda request: []}, label=lambda row: None)


@pytest.fixture(scope="session")
def pairs() -> PairSet:
    return build_pairs(worded.pairs(), axis_name="red", seed=0)


@pytest.fixture(scope="session")
def settings() -> Settings:
    """Return settings under which a tiny model moves within seconds."""
    return resolve_settings(
        default={
            "max_steps": 6,
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-3,
            "max_length": 48,
        }
    )
