import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import tiny
from prefreg.checkpoints.bases import BaseModel
from prefreg.composition.plan import Plan, PlannedTerm

MakePlan = Callable[..., Plan]


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseModel]:
    """Return base models that no test may change, one for every dtype and way of tying."""
    folder = tmp_path_factory.mktemp("bases")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFREG_CACHE", str(folder / "cache"))
        sharded = tiny.save(tiny.llama(tied=False), folder / "sharded", max_shard_size="10KB")
        return {
            "llama": tiny.in_base(lambda: tiny.llama(tied=False), folder / "llama"),
            "sharded": tiny.resolve_base(str(sharded)),
            "bf16": tiny.in_base(
                lambda: tiny.llama(tied=True, dtype=torch.bfloat16), folder / "bf16"
            ),
            "fp16": tiny.in_base(lambda: tiny.gpt2(dtype=torch.float16), folder / "fp16"),
        }


@pytest.fixture
def make_plan(tmp_path: Path) -> MakePlan:
    """Make a plan of random vectors, one for each axis that is given a coefficient."""

    def make(base: BaseModel, *, force_base: bool = False, **etas: float) -> Plan:
        terms = []
        for axis, eta in etas.items():
            phi = tiny.random_phi(base, seed=sum(axis.encode()))
            path = tiny.store(phi, tmp_path / f"{axis}.safetensors")
            terms.append(PlannedTerm(tiny.record(axis, base), eta, path))
        return Plan(base, terms, force_base=force_base)

    return make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
