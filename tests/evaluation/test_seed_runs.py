from collections.abc import Sequence
from pathlib import Path

import pytest

import prefreg
from prefreg.axes.axis import PreferencePair
from prefreg.errors import RegistryError, UsageError
from prefreg.evaluation.consistency import Consistency, spearman_brown
from prefreg.evaluation.evaluation_request import ConsistencyRequest
from prefreg.evaluation.seed_runs import Run, cut_in_halves, shuffle_labels
from prefreg.training.axis_request import AxisRequest

pytestmark = pytest.mark.slow


def pairs(groups: Sequence[int]) -> list[PreferencePair]:
    return [
        PreferencePair.from_texts(
            prompt=f"Prompt {group}.{place}", chosen="Yes.", rejected="No.", group=str(group)
        )
        for group, size in enumerate(groups)
        for place in range(size)
    ]


def of(found: Consistency, role: str) -> list[Run]:
    return [run for run in found.runs if run.role == role]


def test_halves_share_no_group_and_lose_no_pair() -> None:
    whole = pairs([5, 1, 2, 2, 3, 1, 4, 2])
    one, other = cut_in_halves(whole, seed=0)
    assert {pair.group for pair in one}.isdisjoint(pair.group for pair in other)
    assert sorted(map(repr, one + other)) == sorted(map(repr, whole))
    assert abs(len(one) - len(other)) <= 5
    assert cut_in_halves(whole, seed=0) == (one, other)
    assert cut_in_halves(whole, seed=1) != (one, other)


def test_a_random_half_of_the_labels_is_exchanged() -> None:
    whole = pairs([1] * 20)
    shuffled = shuffle_labels(whole, seed=0)
    assert [pair.prompt for pair in shuffled] == [pair.prompt for pair in whole]
    switched = [one != two for one, two in zip(shuffled, whole, strict=True)]
    assert sum(switched) == 10
    assert switched != [
        one != two for one, two in zip(shuffle_labels(whole, seed=1), whole, strict=True)
    ]
    assert shuffled[switched.index(True)] == whole[switched.index(True)].switched()


@pytest.mark.parametrize("seeds", [(), (3,), (0, 1, 0)])
def test_two_different_seeds_are_needed(seeds: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="two or more different seeds"):
        ConsistencyRequest(AxisRequest("helpful"), seeds)


def test_versions_of_the_registry_are_used_and_the_rest_goes_to_scratch(
    trained: Path, tmp_path: Path
) -> None:
    registry = prefreg.open(trained)
    before = [str(record) for record in registry.summaries()]
    configured = {"base": "pocket", "limit": 200, "settings": ["max_steps=8"], "keep_anyway": True}
    found = registry.consistency("helpful", (0, 1), scratch=tmp_path / "scratch.db", **configured)
    assert [(run.seed, run.trained) for run in found.runs] == [(0, False), (1, True)]
    assert [run.registry for run in found.runs] == [str(trained), str(tmp_path / "scratch.db")]
    assert [str(record) for record in registry.summaries()] == before
    one, two = (
        prefreg.open(run.registry).show("helpful", str(run.record.number)) for run in found.runs
    )
    assert one.metadata["training"]["settings"] == two.metadata["training"]["settings"]
    assert two.metadata["training"]["seed"] == 1
    again = registry.consistency(
        "helpful", (0, 1), halves=1, scratch=tmp_path / "scratch.db", **configured
    )
    assert [run.trained for run in of(again, "seed")] == [False, False]
    assert again.cosines[0] == pytest.approx(found.cosines[0], rel=1e-9)
    one, two = (run.record.metadata["data"]["fingerprint"] for run in of(again, "half"))
    assert one != two
    assert again.halves is not None
    assert again.halves.corrected == spearman_brown(again.halves.mean, 2)
    # Another setting makes other vectors, which must not pass for these: it would have to train.
    other = configured | {"settings": ["max_steps=9"]}
    with pytest.raises(RegistryError, match="nowhere"):
        registry.consistency("helpful", (0, 1), scratch=tmp_path / "nowhere" / "x.db", **other)
