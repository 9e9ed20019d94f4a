from collections import Counter

from generating.make import make_world

from prefreg import pocket
from prefreg.axes.axis import plain_text
from prefreg.pocket.pocket_world import heldout_replies, seen_facts, two_hop_facts


def test_every_fact_is_asked_once_and_its_true_statement_is_true() -> None:
    found = seen_facts()
    world = pocket.VILLAGE
    assert len(found) == len(world.people) * len(world.attributes)
    for each in found:
        verdicts = [pocket.score(plain_text(each.prompt), choice) for choice in each.choices]
        assert [verdict.kind for verdict in verdicts] == ["answer"] * len(each.choices)
        right = [place for place, verdict in enumerate(verdicts) if verdict.correct]
        assert right == [each.answer]


def test_the_places_of_true_answers_tell_nothing() -> None:
    places = Counter(each.answer for each in seen_facts())
    assert max(places.values()) - min(places.values()) <= 4


def test_two_hops_name_nobody_and_mean_one_person() -> None:
    found = two_hop_facts()
    assert len(found) > 60
    assert len({plain_text(each.prompt) for each in found}) == len(found)
    for each in found:
        assert not any(name in plain_text(each.prompt) for name in pocket.VILLAGE.people)
        assert pocket.parse(plain_text(each.prompt)) is None


def test_held_out_replies_are_true_answers_of_the_split() -> None:
    found = heldout_replies(50, split="test", seed=1)
    assert found == heldout_replies(50, split="test", seed=1)
    assert found != heldout_replies(50, split="dev", seed=1)
    for each in found:
        prompt = plain_text(each.prompt)
        question = pocket.parse(prompt)
        assert question is not None
        assert question.group == each.group
        assert pocket.score(prompt, *each.choices).correct


def test_other_worlds_have_facts_of_their_own() -> None:
    world = make_world(7)
    assert all(
        pocket.score(plain_text(e.prompt), e.choices[e.answer], world=world).correct
        for e in seen_facts(world)
    )
