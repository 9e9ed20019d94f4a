from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import worded
from axis_runs import train
from prefreg.axes.axis import Axis
from prefreg.checkpoints.bases import BaseModel
from prefreg.data.pairs import PairSet
from prefreg.errors import BaseModelError, GateError, UsageError
from prefreg.training.axis_run import Pole, find_existing_pole
from prefreg.training.pair import TrainedPair
from prefreg.training.settings import Settings


@pytest.fixture(scope="module")
def result(base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings) -> TrainedPair:
    return train(base=base, axis=axis, pairs=pairs, settings=settings, seed=0)


def save(folder: Path, weights: Mapping[str, torch.Tensor]) -> str:
    model = worded.llama()
    model.load_state_dict(dict(weights), strict=False)  # the head is tied
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("pole", ["positive", "negative"])
def test_a_checkpoint_stands_for_the_pole_that_it_is(
    pole: Pole,
    result: TrainedPair,
    base: BaseModel,
    axis: Axis,
    pairs: PairSet,
    settings: Settings,
    tmp_path: Path,
) -> None:
    trained = {"positive": result.positive, "negative": result.negative}
    folder = save(tmp_path / "pole", trained[pole].weights)
    existing = find_existing_pole(base, {pole: folder}, lora=False)
    stages: list[str] = []
    made = train(
        base=base,
        axis=axis,
        pairs=pairs,
        settings=settings,
        seed=0,
        existing=existing,
        progress=lambda stage, step, total, loss=None, /: stages.append(stage),
    )
    poles = {"positive": made.positive, "negative": made.negative}
    for name in poles:
        for key, weight in trained[name].weights.items():
            assert torch.equal(poles[name].weights[key], weight)
    assert poles[pole].curve == []
    assert poles[pole].report == trained[pole].report
    assert existing is not None
    assert poles[pole].existing == existing
    assert existing.to_json()["name"] == "pole"
    assert pole not in stages
    assert f"scoring {pole}" in stages


def test_a_checkpoint_that_prefers_something_else_is_refused(
    result: TrainedPair,
    base: BaseModel,
    axis: Axis,
    pairs: PairSet,
    settings: Settings,
    tmp_path: Path,
) -> None:
    existing = find_existing_pole(
        base, {"positive": save(tmp_path / "other", result.negative.weights)}, lora=False
    )
    with pytest.raises(GateError, match="the checkpoint prefers something else"):
        train(base=base, axis=axis, pairs=pairs, settings=settings, seed=0, existing=existing)


def test_without_a_checkpoint_both_poles_are_trained(base: BaseModel) -> None:
    assert find_existing_pole(base, {"positive": None, "negative": None}, lora=True) is None


def test_what_is_no_pole_on_the_base_is_refused(base: BaseModel, tmp_path: Path) -> None:
    folder = str(base.path)
    with pytest.raises(UsageError, match="prefreg import NAME --plus"):
        find_existing_pole(base, {"positive": folder, "negative": folder}, lora=False)
    with pytest.raises(UsageError, match="leave `lora=` out"):
        find_existing_pole(base, {"positive": folder}, lora=True)
    with pytest.raises(BaseModelError, match="holds the weights of the base"):
        find_existing_pole(base, {"negative": folder}, lora=False)
    worded.llama(tied=False, seed=1).save_pretrained(tmp_path / "untied")
    with pytest.raises(BaseModelError):
        find_existing_pole(base, {"positive": str(tmp_path / "untied")}, lora=False)
    with pytest.raises(BaseModelError, match="There is no folder"):
        find_existing_pole(base, {"positive": "/nowhere/at/all"}, lora=False)
