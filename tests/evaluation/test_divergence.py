import pytest
import torch
from transformers import PreTrainedModel

from prefreg.evaluation.divergence import divergences
from prefreg.models.generation import Answer
from tiny import gpt2, llama, perturbed

ANSWERS = [
    Answer("", [1, 5, 9], [7, 8, 2], True),
    Answer("", [1, 5], [7], False),
    Answer("", [1, 5, 9, 11, 4], [30, 31, 32, 33, 2], True),
]


def by_hand(turned: PreTrainedModel, base: PreTrainedModel, answer: Answer) -> float:
    ids = torch.tensor([[*answer.prompt_ids, *answer.ids]])
    with torch.no_grad():
        one, other = (model(ids).logits[0].log_softmax(1) for model in (turned, base))
    first = len(answer.prompt_ids) - 1
    steps = range(first, first + len(answer.ids))
    return sum(float((one[at].exp() * (one[at] - other[at])).sum()) for at in steps)


@pytest.mark.parametrize("make", [lambda: llama(tied=True), lambda: llama(tied=False), gpt2])
def test_kl_is_that_of_the_whole_vocabulary_at_every_step(make) -> None:
    base, turned = make().eval(), perturbed(make(), scale=0.05, seed=1).eval()
    pristine = {name: each.detach() for name, each in base.named_parameters()}
    found = divergences(turned, pristine, ANSWERS, batch_size=2)
    expected = [by_hand(turned, base, answer) for answer in ANSWERS]
    assert min(expected) > 1e-4
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_model_does_not_diverge_from_itself() -> None:
    model = llama(tied=True).eval()
    pristine = {name: each.detach().clone() for name, each in model.named_parameters()}
    assert divergences(model, pristine, ANSWERS) == [0.0, 0.0, 0.0]


def test_the_weights_are_those_of_the_composition_again() -> None:
    base, turned = llama(tied=True), perturbed(llama(tied=True), scale=0.05, seed=1)
    before = {name: each.detach().clone() for name, each in turned.named_parameters()}
    divergences(turned, dict(base.named_parameters()), ANSWERS)
    assert all(torch.equal(each, before[name]) for name, each in turned.named_parameters())
