"""What holds in every world: the village, and the worlds that seeds make."""

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
from generating.make import make_world
from generating.names import HE_ENDINGS, SHE_ENDINGS, STEMS
from hypothesis import given, settings
from hypothesis import strategies as st

from prefreg import pocket
from prefreg.pocket import Verdict, World
from prefreg.pocket.answers import additions, courtesies, evasions, reply, statements
from prefreg.pocket.questions import KINDS, SPLITS, questions, questions_of, wordings
from prefreg.pocket.rows import SIZES
from prefreg.pocket.world import DETAILS, Manner

AXES = ("helpful", "harmless", "verbosity", "honesty", "politeness", "directness")
WORLDS = (pocket.VILLAGE, make_world(1), make_world(23))
MANNERS: tuple[Manner, ...] = ("answer", "vague", "admit", "refusal")
any_world = pytest.mark.parametrize("world", WORLDS, ids=repr)
a_few_seeds = settings(max_examples=8, deadline=None)
seeds = st.integers(0, 2**32)
Intended = Callable[[Verdict, object], bool]


def texts(world: World) -> dict[str, set[str]]:
    """Return everything that is said in a world, questions by split and answers together."""
    found: dict[str, set[str]] = {split: set() for split in SPLITS}
    found["said"] = {text for manner in MANNERS for text, _ in courtesies(manner, world)}
    for kind in KINDS:
        for question in questions(kind, world):
            for split in SPLITS:
                found[split].update(wordings(question, split))
            found["said"].update(text for text, _ in statements(question) + additions(question))
            for manner in MANNERS:
                found["said"].update(text for text, _ in evasions(question, manner))
    return found


def words(lines: set[str]) -> set[str]:
    return {word for line in lines for word in re.findall(r"\w+", line)}


def values(world: World) -> list[str]:
    found = [value for attribute in world.attributes for value in attribute.values]
    return found + [value for detail in DETAILS for value in world.detail_values(detail)]


def _safety(verdict: Verdict, safe: object) -> bool:
    return verdict.kind != "malformed" and verdict.correct is not False and safe != verdict.complies


def _honesty(verdict: Verdict, rating: object) -> bool:
    if rating == 5:
        return verdict.admits or bool(verdict.correct)
    if rating == 3:
        return verdict.kind == "vague" and not verdict.admits
    return verdict.correct is False


def _directness(verdict: Verdict, rating: object) -> bool:
    directly, gently = verdict.commands > 0, verdict.suggestions > 0
    return bool(verdict.correct) and (directly, gently) == (rating == 5, rating == 1)


INTENDED: dict[str, tuple[str, Intended]] = {
    "helpful": ("is_response_{}_safe", _safety),
    "harmless": ("is_response_{}_safe", _safety),
    "verbosity": ("verbosity_{}", lambda v, _: v.kind != "malformed" and v.correct is not False),
    "honesty": ("honesty_{}", _honesty),
    "politeness": (
        "politeness_{}",
        lambda verdict, rating: (
            verdict.tone == {5: "polite", 3: "plain", 1: "curt"}[int(str(rating))]
            and verdict.kind != "malformed"
        ),
    ),
    "directness": ("directness_{}", _directness),
}


@any_world
@pytest.mark.parametrize("axis", AXES)
def test_every_response_is_what_its_row_says(axis: str, world: World) -> None:
    column, intended = INTENDED[axis]
    for split in SPLITS:
        for row in pocket.rows(axis, split=split, limit=200, world=world):
            for side in "01":
                answer = str(row[f"response_{side}"])
                verdict = pocket.score(str(row["prompt"]), answer, world=world)
                assert intended(verdict, row[column.format(side)]), (row, verdict)


@any_world
@pytest.mark.parametrize(
    ("axis", "column", "best"),
    [("helpful", "better_response_id", "answer"), ("harmless", "safer_response_id", "refusal")],
)
def test_the_winner_of_a_safety_row_is_of_the_best_kind_there_is(
    axis: str, column: str, best: str, world: World
) -> None:
    for row in pocket.rows(axis, limit=400, world=world):
        if row[column] is None:
            continue
        pair = (row[f"response_{row[column]}"], row[f"response_{1 - int(str(row[column]))}"])
        winner, loser = (
            pocket.score(str(row["prompt"]), str(each), world=world).kind for each in pair
        )
        assert winner == best or loser != best
        assert winner != loser


@any_world
def test_the_longer_response_has_the_higher_rating_on_the_whole(world: World) -> None:
    longer = shorter = 0
    for row in pocket.rows("verbosity", world=world):
        first, second = (len(str(row[f"response_{side}"]).split()) for side in "01")
        gap = (first - second) * (int(str(row["verbosity_0"])) - int(str(row["verbosity_1"])))
        longer, shorter = longer + (gap > 0), shorter + (gap < 0)
    assert longer > 10 * shorter


@any_world
def test_splits_share_no_group_and_no_prompt(world: World) -> None:
    for axis in AXES:
        found = {
            split: list(pocket.rows(axis, split=split, limit=200, world=world)) for split in SPLITS
        }
        for one, two in combinations(SPLITS, 2):
            for column in ("group", "prompt"):
                assert {row[column] for row in found[one]}.isdisjoint(
                    row[column] for row in found[two]
                )


@any_world
def test_there_are_enough_different_prompts(world: World) -> None:
    for kind in ("benign", "unsafe", "unknown"):
        for split in SPLITS:
            asked = pocket.prompts(kind, split=split, limit=SIZES["test"], world=world)
            assert len(set(asked)) == SIZES["test"]


@any_world
def test_a_false_answer_is_scored_false(world: World) -> None:
    draw = random.Random(5)
    for kind in KINDS:
        for question in draw.sample(questions(kind, world), 20):
            prompt = draw.choice(wordings(question, "test"))
            answer = reply(question, "answer", draw, wrong=True)
            assert pocket.score(prompt, answer, world=world).correct is False


@given(seeds)
@a_few_seeds
def test_a_seed_makes_a_sound_world(seed: int) -> None:
    assert_sound(make_world(seed))


def test_the_village_is_sound() -> None:
    assert_sound(pocket.VILLAGE)


def assert_sound(world: World) -> None:
    assert_nothing_has_two_meanings(world)
    found = texts(world)
    for one, two in combinations(SPLITS, 2):
        assert found[one].isdisjoint(found[two])
    assert words(found["dev"]) | words(found["test"]) <= words(found["train"])
    assert all(text.count(" ") < 16 for text in found["said"])
    assert not [
        text for text in found["said"] if re.search(r"[.?!] ", text) or text[-1] not in ".?!"
    ]
    assert_names_mean_people(world, found)
    said = words(found["train"] | found["said"])
    assert 350 < len(said) < 500


def assert_nothing_has_two_meanings(world: World) -> None:
    asked = [
        (wording, question)
        for kind in KINDS
        for question in questions(kind, world)
        for split in SPLITS
        for wording in wordings(question, split)
    ]
    assert len({wording for wording, _ in asked}) == len(asked)
    for kind in KINDS:
        for question in questions(kind, world):
            meant = {
                (text, meaning.field, meaning.value)
                for text, meaning in statements(question) + additions(question)
            }
            heads = {
                (text, manner)
                for manner in MANNERS
                for text, meaning in evasions(question, manner)
                if meaning.role != "reason"
            }
            assert len({text for text, *_ in meant}) == len(meant)
            assert len({text for text, _ in heads}) == len(heads)
            assert {text for text, *_ in meant}.isdisjoint(text for text, _ in heads)


def assert_names_mean_people(world: World, found: dict[str, set[str]]) -> None:
    people, verbs = set(world.people), {act.verb for act in world.acts}
    assert (len(people), len(verbs), len(set(world.places))) == (24, 28, 12)
    everything = [*values(world), *world.places, *verbs]
    assert len(set(everything)) == len(everything)
    lowered = {
        word.lower() for line in (*everything, *world.phrasings.vague) for word in line.split()
    }
    assert lowered.isdisjoint(name.lower() for name in people)
    unnamed = {line for line in found["said"] if not any(name in line for name in people)}
    assert words(unnamed).isdisjoint(people)


@given(seeds, seeds)
@a_few_seeds
def test_different_seeds_make_different_worlds(one: int, two: int) -> None:
    first, second = make_world(one), make_world(two)
    assert (first == second) == (one == two)
    if one != two:
        assert set(first.people) != set(second.people)
        assert first.facts != second.facts
        assert [act.details for act in first.acts] != [act.details for act in second.acts]
    for part in ("people", "places"):
        assert set(getattr(first, part)).isdisjoint(getattr(pocket.VILLAGE, part))


def test_a_world_is_built_like_the_village() -> None:
    def shape(world: World) -> list[object]:
        counts: list[object] = [len(world.people), len(world.attributes), len(world.mysteries)]
        for kind in KINDS:
            counts += [len(questions_of(kind, split, world)) for split in SPLITS]
        return [*counts, [act.unsafe for act in world.acts]]

    assert shape(make_world(5)) == shape(pocket.VILLAGE)


def test_no_name_that_can_be_drawn_is_a_villagers_or_is_made_twice() -> None:
    names = {stem + ending for stem in STEMS for ending in (*SHE_ENDINGS, *HE_ENDINGS)}
    assert names.isdisjoint(pocket.VILLAGE.people)
    assert len(names) == len(STEMS) * len({*SHE_ENDINGS, *HE_ENDINGS})


def test_a_seed_makes_the_same_world_in_every_process() -> None:
    code = (
        "import hashlib; from prefreg import pocket; from generating.make import make_world;"
        "world = make_world(4);"
        "rows = [row for axis in ('helpful', 'honesty') for row in pocket.rows(axis, world=world)];"
        "print(hashlib.sha256(repr(rows).encode()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(sys.modules["generating.make"].__file__ or "").parents[1],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
