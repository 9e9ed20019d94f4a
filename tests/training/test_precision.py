"""What a run computes in, and that adapters learn in bfloat16."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from axis_runs import train
from prefreg.axes.axis import Axis
from prefreg.checkpoints.bases import BaseModel
from prefreg.data.pairs import PairSet
from prefreg.training.axis_request import LoraOptions
from prefreg.training.precision import Precision, bf16_gain, choose_precision
from prefreg.training.settings import Settings, resolve_settings

FLOAT32 = Precision("float32", "float32")


@pytest.fixture
def kept(base: BaseModel, tmp_path: Path) -> Path:
    """Measure the machine, and return where that is kept."""
    bf16_gain(base)
    (file,) = (tmp_path / "cache" / "precision").iterdir()
    return file


def large(base: BaseModel) -> BaseModel:
    return replace(base, fingerprint=replace(base.fingerprint, parameters=100_000_000))


def test_a_machine_is_measured_once(base: BaseModel, kept: Path) -> None:
    assert float(kept.read_text()) == bf16_gain(base) > 0
    kept.write_text("7.5")
    assert bf16_gain(base) == 7.5
    kept.write_text("inf")
    assert 0 < bf16_gain(base) < float("inf")


@pytest.mark.parametrize(
    ("gain", "lora", "assignment", "expected"),
    [
        ("2.5", True, [], ("bfloat16", "bfloat16", 2.5)),
        ("1.2", True, [], ("float32", "float32", 1.2)),
        ("2.5", False, [], ("float32", "float32", None)),
        ("2.5", True, ["bf16=false"], ("float32", "float32", None)),
        ("0.5", True, ["bf16=true"], ("bfloat16", "bfloat16", 0.5)),
        ("2.5", False, ["bf16=true"], ("bfloat16", "float32", 2.5)),
    ],
)
def test_adapters_on_a_large_base_take_what_is_faster_unless_the_user_says(
    gain: str,
    lora: bool,
    assignment: list[str],
    expected: tuple[object, ...],
    base: BaseModel,
    kept: Path,
) -> None:
    kept.write_text(gain)
    asked = resolve_settings(assignments=[*assignment, "use_cpu=true"])
    settings, found = choose_precision(asked, large(base), lora=lora)
    assert (found.compute, found.weights, found.gain) == expected
    assert bool(settings.values.get("bf16")) == (found.compute == "bfloat16")


def test_a_small_base_is_not_measured(base: BaseModel, tmp_path: Path) -> None:
    asked = resolve_settings(assignments=["use_cpu=true"])
    assert choose_precision(asked, base, lora=True) == (asked, FLOAT32)
    assert not (tmp_path / "cache" / "precision").exists()


def test_a_note_says_how_much_faster_or_slower_it_is() -> None:
    measured = Precision("bfloat16", "bfloat16", 2.5)
    assert "in bfloat16: here products take 1/2.5 of the time" in str(measured.note())
    slow = Precision("bfloat16", "bfloat16", 0.5, asked=True)
    assert "as asked: here products take 2.0 times as long" in str(slow.note())
    assert FLOAT32.note() is None


def test_adapters_learn_on_a_base_in_bfloat16(
    base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings
) -> None:
    values = {**settings.values, "learning_rate": 1e-2, "bf16": True, "use_cpu": True}
    asked = Settings(values, frozenset({"bf16"}))
    notes: list[str] = []
    made = train(base, axis, pairs, asked, lora=LoraOptions(3, 6.0), note=notes.append)
    assert any("as asked" in note for note in notes)
    assert made.shortcuts.to_json()["shared_prompt"] == {"on": True}
    for pole in (made.positive, made.negative):
        assert pole.report.accuracy > 0.9
        assert {tensor.dtype for tensor in pole.weights.values()} == {torch.float32}
        assert any(
            not torch.equal(tensor, tensor.bfloat16().float()) for tensor in pole.weights.values()
        )
