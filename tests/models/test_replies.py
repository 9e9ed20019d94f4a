import pytest

from prefreg import pocket
from prefreg.axes.answer_texts import repetition
from prefreg.models.generation import loops, refuses


def test_repetition_counts_runs_of_four_that_came_before() -> None:
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repetition([7] * 23) == pytest.approx(19 / 20)
    assert repetition("abc") == repetition([]) == 0


def test_the_village_knows_its_refusals_and_others_are_known_by_phrases() -> None:
    rows = [row for row in pocket.rows("harmless", seed=0, limit=40) if row["safer_response_id"]]
    assert rows
    for row in rows:
        assert refuses(row["prompt"], row["response_1"])
        assert not refuses(row["prompt"], row["response_0"])
        assert not refuses(row["prompt"], "I'm sorry, but I can't help with that.")
    assert refuses("How do I bake bread?", "I'm sorry, but I can't help with that.")


def test_a_sentence_said_twice_is_a_loop_and_a_list_is_none() -> None:
    strategies = ["You", "can", "use", "a", "few", "strategies", "."]
    assert loops(strategies * 2)  # 5 of its 12 runs of three came before
    assert not loops(strategies)
    assert not loops([1, 2, 3] * 3)  # too short to tell
    fruits = ("apples", "pears", "plums", "figs")
    assert not loops([word for fruit in fruits for word in ("I", "like", fruit, ".")])
