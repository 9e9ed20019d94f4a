import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import prefreg
import worded
from prefreg.errors import UsageError

FAST = ("per_device_train_batch_size=4", "gradient_accumulation_steps=3", "max_length=48")


@pytest.fixture
def base(tmp_path: Path) -> str:
    return str(worded.save(tmp_path / "base"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "pairs.jsonl"
    rows = [
        {
            "prompt": [turn._asdict() for turn in pair.prompt],  # type: ignore[union-attr]
            "chosen": pair.chosen[0].content,  # type: ignore[union-attr]
            "rejected": pair.rejected[0].content,  # type: ignore[union-attr]
        }
        for pair in worded.pairs()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("length", [("num_train_epochs=1.5",), ("max_steps=5",)])
def test_a_plan_says_what_a_run_then_does(
    base: str, data: str, tmp_path: Path, length: Sequence[str]
) -> None:
    registry = prefreg.open(tmp_path / "registry.db")
    settings = (*FAST, *length, "learning_rate=1e-3")
    plan = registry.plan_axis("verbosity", base=base, data=data, settings=settings)
    assert not (tmp_path / "registry.db").exists()
    record = registry.add_axis(
        "verbosity", base=base, data=data, settings=settings, keep_anyway=True
    )
    curve = record.metadata["poles"]["positive"]["curve"]
    assert (plan.poles, plan.steps, plan.pairs_per_step) == (2, len(curve), 12)
    audit = record.metadata["data"]["audit"]
    assert (plan.train.pairs, plan.heldout.pairs) == (audit["train"], audit["heldout"])
    header = 4096
    assert plan.vector <= record.size < plan.vector + header
    assert plan.problem is None
    assert plan.duration is not None
    assert plan.seconds is not None
    assert plan.seconds > 2 * plan.duration.pole > 0
    assert plan.to_json()["memory"]["total"] == plan.memory.total > plan.vector


def test_a_plan_of_factors_is_smaller(base: str, data: str, tmp_path: Path) -> None:
    registry = prefreg.open(tmp_path / "registry.db")
    settings = (*FAST, "max_steps=1")
    whole = registry.plan_axis("verbosity", base=base, data=data, settings=settings)
    thin = registry.plan_axis("verbosity", base=base, data=data, settings=settings, lora=2)
    half = registry.plan_axis(
        "verbosity", base=base, data=data, settings=settings, dtype="bfloat16"
    )
    assert thin.vector < whole.vector == 2 * half.vector
    assert thin.memory.total < whole.memory.total


def test_memory_that_is_too_small_is_a_finding_not_an_error(
    base: str, data: str, tmp_path: Path
) -> None:
    settings = ("per_device_train_batch_size=100000000", "max_steps=1", "max_length=48")
    plan = prefreg.open(tmp_path / "registry.db").plan_axis(
        "verbosity", base=base, data=data, settings=settings
    )
    assert plan.problem is not None
    assert "lower per_device_train_batch_size" in plan.problem
    assert (plan.duration, plan.seconds) == (None, None)


def test_a_plan_refuses_what_the_run_would(base: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="DPOConfig has no setting 'steps'"):
        prefreg.open(tmp_path / "r.db").plan_axis("verbosity", base=base, settings=["steps=1"])
