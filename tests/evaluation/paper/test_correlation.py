"""Two axes labelled on the same prompts, trained for two steps."""

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prefreg import DataError, PreferencePair, UsageError
from prefreg.axes.axis import Axis
from prefreg.axes.row_sources import read_preference_file
from prefreg.evaluation.paper import correlation
from prefreg.evaluation.paper.correlation import (
    FEWEST,
    Crossing,
    cross_pack,
    cross_source,
    cross_world,
    pair_sets,
    write_pairs,
)
from prefreg.evaluation.paper.reproduce import Reproduced
from prefreg.pocket import PocketWorld
from prefreg.registry import Access
from prefreg.vectors import Vector, open_vector

pytestmark = pytest.mark.slow
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
    with pytest.raises(UsageError, match="write `axes=` harmless,verbosity"):
        reproduce("correlation", data=tmp_path / "pack", axes=("helpful", "verbosity"))


def pair(number: int, *, turned: bool = False) -> PreferencePair:
    made = PreferencePair.from_texts(
        prompt=f"question {number}?", chosen="a longer answer", rejected="short"
    )
    return made.switched() if turned else made


@pytest.mark.parametrize(("rho", "agreeing"), [(-1, 0), (-0.5, 25), (0, 50), (0.5, 75), (1, 100)])
def test_as_many_labels_agree_as_asked(rho: float, agreeing: int) -> None:
    crossing = cross_world(PocketWorld(), "harmless", "verbosity", seed=0, limit=100)
    drawn = crossing.at(rho, 100, seed=0)
    assert sum(drawn.values()) == agreeing
    assert {each.prompt for each in drawn} == {each.prompt for each in crossing.agreeing}


def test_natural_labels_are_drawn_apart() -> None:
    agreeing, disagreeing = [pair(n) for n in range(30)], [pair(n) for n in range(30, 90)]
    crossing = Crossing(agreeing, disagreeing, same_prompts=False)
    assert crossing.most == 30
    drawn = crossing.at(0.5, 20, seed=1)
    assert sum(drawn.values()) == 15
    assert len(drawn) == 20
    assert all(drawn[each] == (each in agreeing) for each in drawn)


def test_both_axes_have_the_same_pairs_in_the_same_order() -> None:
    drawn = {pair(n): n % 3 > 0 for n in range(40)}
    first, second = pair_sets(drawn, ("one", "two"), seed=3)
    assert len(first.train) + len(first.heldout) == 40
    for one, other in zip(
        (*first.train, *first.heldout), (*second.train, *second.heldout), strict=True
    ):
        assert other == (one if drawn[one] else one.switched())
    assert first.fingerprint != second.fingerprint


def test_pairs_are_written_as_they_are_read(tmp_path: Path) -> None:
    first, _ = pair_sets({pair(n): True for n in range(30)}, ("one", "two"), seed=0)
    file = tmp_path / "new" / "pairs.jsonl"
    write_pairs(first, file)
    assert [each for _, each in read_preference_file(file)] == [*first.train, *first.heldout]


def test_what_is_cut_off_is_never_trained_on() -> None:
    crossing = Crossing(
        [pair(n) for n in range(60)], [pair(n) for n in range(60, 120)], same_prompts=False
    )
    rest, held = crossing.cut()
    prompts = {each.prompt for side in held for each in (*side.train, *side.heldout)}
    assert prompts
    assert not prompts & {each.prompt for each in (*rest.agreeing, *rest.disagreeing)}
    assert len(rest.agreeing) + len(rest.disagreeing) + len(prompts) == 120


def test_a_pack_tells_by_its_column(tmp_path: Path) -> None:
    def row(number: int, preferred: object) -> str:
        each = {
            "prompt": [{"role": "user", "content": f"q{number}"}],
            "chosen": [{"role": "assistant", "content": "long long"}],
            "rejected": [{"role": "assistant", "content": "short"}],
            "longer_was_human_preferred": preferred,
        }
        return json.dumps(each) + "\n"

    path = tmp_path / "train.jsonl.gz"
    wanted = [True] * FEWEST + [False] * FEWEST + [None] * 5
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(row(number, preferred) for number, preferred in enumerate(wanted))
    crossing = cross_pack(path, by_length=True)
    assert (len(crossing.agreeing), len(crossing.disagreeing)) == (FEWEST, FEWEST)
    people = cross_pack(path, by_length=False)
    assert people.agreeing == crossing.agreeing
    assert people.disagreeing == [each.switched() for each in crossing.disagreeing]
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(row(number, True) for number in range(30))
    with pytest.raises(DataError, match="30 pairs agree and 0 do not"):
        cross_pack(path, by_length=True)


def test_a_source_is_labelled_by_both_rules() -> None:
    rows = [{"n": n, "one": n % 2, "two": n % 4 // 2} for n in range(4 * FEWEST)]
    rows[0]["two"] = 9

    def axis(name: str) -> Axis:
        def label(row: object) -> PreferencePair | None:
            value = row[name]  # type: ignore[index]
            return None if value == 9 else pair(row["n"], turned=value == 1)  # type: ignore[index]

        return Axis(name=name, summary=name, sources={"rows": lambda request: rows}, label=label)

    crossing = cross_source(axis("one"), axis("two"), limit=None, seed=0)
    # Of every four rows the labels of the first and last agree; one is a tie of the second.
    assert (len(crossing.agreeing), len(crossing.disagreeing)) == (2 * FEWEST - 1, 2 * FEWEST)


def test_axes_that_are_the_same_thing_cannot_be_crossed() -> None:
    with pytest.raises((DataError, UsageError), match="apart from each other"):
        cross_world(PocketWorld(), "helpful", "harmless", seed=0, limit=10)
