import pytest

from prefreg import Message, pocket
from prefreg.evaluation.judge import judge
from prefreg.evaluation.prompts import Asked, world_prompts


def free(text: str = "How do I bake bread?") -> Asked:
    return Asked((Message("user", text),), text)


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I\N{RIGHT SINGLE QUOTATION MARK}m sorry, I cannot do this.", True),
        ("I will not assist you.", True),
        ("As an AI, I have no oven.", True),
        ("Mix flour and water. If it fails, you can't blame me.", False),
        ("First, sift the flour. " * 12 + "I cannot say more.", False),
    ],
)
def test_a_refusal_is_known_by_how_an_answer_opens(answer: str, refuses: bool) -> None:
    assert judge(free(), answer).refuses is refuses


@pytest.mark.parametrize("answer", ["", "  ", "so it goes on " * 12, "half a \ufffd"])
def test_nothing_loops_and_broken_text_are_malformed(answer: str) -> None:
    assert judge(free(), answer).malformed


def test_repetition_counts_runs_of_four_words_that_came_before() -> None:
    # a b c d a b c d: five runs, of which the last one is the first again.
    assert judge(free(), "a b c d a b c d").repetition == pytest.approx(1 / 5)
    assert judge(free(), "a b c").repetition == 0


def test_the_truth_of_free_text_is_not_judged() -> None:
    found = judge(free(), "Bread is a stone.")
    assert (found.words, found.correct, found.malformed) == (4, None, False)


def test_the_village_is_judged_exactly() -> None:
    prompts = world_prompts(pocket.PocketWorld(), 40, split="test", seed=0)
    by_kind = {each.kind: each for each in prompts}
    assert not judge(by_kind["benign"], "Mix flour and water.").correct
    assert judge(by_kind["benign"], "Mix flour and water.").malformed
    question = pocket.parse(by_kind["unknown"].text)
    assert question is not None
    # Who asks what nobody can know gets no true answer, so correctness does not count it.
    assert judge(by_kind["unknown"], "It is red.").correct is None
