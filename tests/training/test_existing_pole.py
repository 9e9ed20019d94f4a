from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import worded
from prefreg.axes.axis import Axis
from prefreg.checkpoints.bases import BaseModel
from prefreg.data.pairs import PairSet
from prefreg.errors import BaseModelError, GateError, UsageError
from prefreg.training.existing_pole import Pole, find_given
from prefreg.training.pair import PairResult, train_pair
from prefreg.training.settings import Settings


@pytest.fixture(scope="module")
def result(base: BaseModel, axis: Axis, pairs: PairSet, settings: Settings) -> PairResult:
    return train_pair(base=base, axis=axis, pairs=pairs, settings=settings, seed=0)


def save(folder: Path, weights: Mapping[str, torch.Tensor]) -> str:
    model = worded.llama()
    model.load_state_dict(dict(weights), strict=False)  # the head is tied
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("pole", ["positive", "negative"])
def test_a_checkpoint_stands_for_the_pole_that_it_is(
    pole: Pole,
    result: PairResult,
    base: BaseModel,
    axis: Axis,
    pairs: PairSet,
    settings: Settings,
    tmp_path: Path,
) -> None:
    trained = {"positive": result.positive, "negative": result.negative}
    folder = save(tmp_path / "pole", trained[pole].weights)
    given = find_given(base, {pole: folder}, lora=False)
    stages: list[str] = []
    made = train_pair(
        base=base,
        axis=axis,
        pairs=pairs,
        settings=settings,
        seed=0,
        given=given,
        progress=lambda stage, step, total, loss=None, /: stages.append(stage),
    )
    poles = {"positive": made.positive, "negative": made.negative}
    for name in poles:
        for key, weight in trained[name].weights.items():
            assert torch.equal(poles[name].weights[key], weight)
    assert poles[pole].curve == []
    assert poles[pole].report == trained[pole].report
    assert given is not None
    assert poles[pole].given == given
    assert given.to_json()["name"] == "pole"
    assert pole not in stages
    assert f"scoring {pole}" in stages


def test_a_checkpoint_that_prefers_something_else_is_refused(
    result: PairResult,
    base: BaseModel,
    axis: Axis,
    pairs: PairSet,
    settings: Settings,
    tmp_path: Path,
) -> None:
    given = find_given(
        base, {"positive": save(tmp_path / "other", result.negative.weights)}, lora=False
    )
    with pytest.raises(GateError, match="the checkpoint prefers something else"):
        train_pair(base=base, axis=axis, pairs=pairs, settings=settings, seed=0, given=given)


def test_without_a_checkpoint_both_poles_are_trained(base: BaseModel) -> None:
    assert find_given(base, {"positive": None, "negative": None}, lora=True) is None


def test_what_is_no_pole_on_the_base_is_refused(base: BaseModel, tmp_path: Path) -> None:
    folder = str(base.path)
    with pytest.raises(UsageError, match="prefreg import NAME --plus"):
        find_given(base, {"positive": folder, "negative": folder}, lora=False)
    with pytest.raises(UsageError, match="leave --lora out"):
        find_given(base, {"positive": folder}, lora=True)
    with pytest.raises(BaseModelError, match="holds the weights of the base"):
        find_given(base, {"negative": folder}, lora=False)
    worded.llama(tied=False, seed=1).save_pretrained(tmp_path / "untied")
    with pytest.raises(BaseModelError):
        find_given(base, {"positive": str(tmp_path / "untied")}, lora=False)
    with pytest.raises(BaseModelError, match="There is no folder"):
        find_given(base, {"positive": "/nowhere/at/all"}, lora=False)
