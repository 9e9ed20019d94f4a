from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import prefreg
from prefreg.evaluation.paper.reproduce import Reproduced

SHORT: dict[str, Any] = {
    "limit": 200,
    "settings": ("max_steps=8",),
    "prompts": 40,
    "max_new_tokens": 8,
    "seeds": (0,),
}
"""As the shared registry was trained, so that its vectors are taken."""

Reproduce = Callable[..., Reproduced]


@pytest.fixture(scope="session")
def reproduce(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Reproduced]:
    """Carry out an experiment in little time, in a folder of its own."""

    def call(name: str, registry: Path = trained, **options: Any) -> Reproduced:
        folder = tmp_path_factory.mktemp(name) / "out"
        with pytest.MonkeyPatch.context() as environment:
            cache = str(tmp_path_factory.getbasetemp() / "experiments")
            environment.setenv("PREFREG_CACHE", cache)
            environment.setenv("HF_HUB_OFFLINE", "1")
            return prefreg.open(registry).reproduce(name, folder, **(SHORT | options))

    return call
