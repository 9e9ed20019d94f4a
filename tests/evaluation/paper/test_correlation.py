"""Two axes labelled on the same prompts, trained for two steps."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prefreg import UsageError
from prefreg.evaluation.paper import correlation
from prefreg.evaluation.paper.reproduce import Reproduced
from prefreg.registry import Access
from prefreg.vectors import Vector, open_vector

LEVELS = (-1.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def made(reproduce: Callable[..., Reproduced]) -> Reproduced:
    """Carry out the experiment once for all tests of this file, at fewer levels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(correlation, "LEVELS", LEVELS)
        return reproduce("correlation", limit=40, settings=("max_steps=2",))


def tensors(made: Reproduced, name: str) -> dict[str, torch.Tensor]:
    """Read a vector of the experiment whole."""
    axis, _, number = name.partition("@")
    with Access(made.folder / "registry.db").reading() as store:
        record = store.resolve(axis, number)
        with open_vector(store.vector_source(record), kind=record.kind, label=name) as vector:
            return {each: tensor(vector, each) for each in vector.names}


def tensor(vector: Vector, name: str) -> torch.Tensor:
    return vector.block(name, 0, math.prod(vector.shape(name)))


def both(made: Reproduced, rho: float) -> list[dict[str, torch.Tensor]]:
    level = next(each for each in made.results["data"]["levels"] if each["rho"] == rho)
    names = level["versions"]
    return [tensors(made, names[f"{axis}, seed 0"]) for axis in ("harmless", "verbosity")]


def test_labels_that_always_agree_give_the_same_vector(made: Reproduced) -> None:
    first, second = both(made, 1.0)
    assert any(tensor.any() for tensor in first.values())
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_labels_that_never_agree_give_the_opposite_vector(made: Reproduced) -> None:
    first, second = both(made, -1.0)
    assert any(tensor.any() for tensor in first.values())
    for name, tensor in first.items():
        assert torch.equal(tensor, -second[name]), name


def test_both_identities_are_claimed_and_held(made: Reproduced) -> None:
    claims = {each["claim"]: each["held"] for each in made.results["claims"]}
    exact = [held for claim, held in claims.items() if "bit for bit" in claim]
    assert exact == [True, True]
    cosines = {each["rho"]: each["cosines"][0] for each in made.results["data"]["levels"]}
    assert (cosines[-1.0], cosines[1.0]) == (pytest.approx(-1), pytest.approx(1))
    assert cosines[-1.0] < cosines[0.0] < cosines[1.0]


def test_other_levels_are_no_such_identity(made: Reproduced) -> None:
    first, second = both(made, 0.0)
    assert any(not torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_every_level_has_the_same_prompts_and_count(made: Reproduced) -> None:
    prompts = []
    for rho in LEVELS:
        lines = [
            (made.folder / "pairs" / f"rho{rho:+g}-seed0-{axis}.jsonl").read_text("utf-8")
            for axis in ("harmless", "verbosity")
        ]
        asked = [
            sorted(json.loads(line)["prompt"][0]["content"] for line in text.splitlines())
            for text in lines
        ]
        assert asked[0] == asked[1]
        prompts.append(asked[0])
    assert all(each == prompts[0] for each in prompts)


def test_the_real_check_is_skipped_with_a_word(made: Reproduced) -> None:
    last = made.results["claims"][-1]
    assert last["held"] is None
    assert "--data PACK" in last["figures"]


def test_a_pack_decides_on_the_axes(reproduce: Callable[..., Reproduced], tmp_path: Path) -> None:
    (tmp_path / "pack" / "prefs").mkdir(parents=True)
    with pytest.raises(UsageError, match="write --axes harmless,verbosity"):
        reproduce("correlation", data=tmp_path / "pack", axes=("helpful", "verbosity"))
