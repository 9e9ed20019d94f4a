from collections import Counter

from generating.make import make_world

from prefreg import pocket
from prefreg.pocket.kept_facts import heldout_replies, seen_facts, two_hop_facts


def test_every_fact_is_asked_once_and_its_true_statement_is_true() -> None:
    found = seen_facts()
    world = pocket.VILLAGE
    assert len(found) == len(world.people) * len(world.attributes)
    for each in found:
        verdicts = [pocket.score(each.question, choice) for choice in each.choices]
        assert [verdict.kind for verdict in verdicts] == ["answer"] * len(each.choices)
        right = [place for place, verdict in enumerate(verdicts) if verdict.correct]
        assert right == [each.answer]


def test_the_places_of_true_answers_tell_nothing() -> None:
    places = Counter(each.answer for each in seen_facts())
    assert max(places.values()) - min(places.values()) <= 4


def test_two_hops_name_nobody_and_mean_one_person() -> None:
    found = two_hop_facts()
    assert len(found) > 60
    assert len({each.question for each in found}) == len(found)
    for each in found:
        assert not any(name in each.question for name in pocket.VILLAGE.people)
        assert pocket.parse(each.question) is None


def test_held_out_replies_are_true_answers_of_the_split() -> None:
    found = heldout_replies(50, split="test", seed=1)
    assert found == heldout_replies(50, split="test", seed=1)
    assert found != heldout_replies(50, split="dev", seed=1)
    for prompt, answer, group in found:
        question = pocket.parse(prompt)
        assert question is not None
        assert question.group == group
        assert pocket.score(prompt, answer).correct


def test_other_worlds_have_facts_of_their_own() -> None:
    world = make_world(7)
    assert all(
        pocket.score(e.question, e.choices[e.answer], world=world).correct
        for e in seen_facts(world)
    )
