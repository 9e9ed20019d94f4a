import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from prefreg import BaseModelError, UsageError, pocket
from prefreg.models.generation import sample_answers
from prefreg.models.sampling import Sampling

PROMPTS = pocket.prompts("benign", limit=5, seed=3)
DRAWN = Sampling(max_new_tokens=24, temperature=1.0, seed=1)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(pocket.model_dir()).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(pocket.model_dir())


def test_the_same_seed_draws_the_same_answers(model, tokenizer) -> None:
    first = sample_answers(model, tokenizer, PROMPTS, DRAWN)
    torch.rand(7)
    assert sample_answers(model, tokenizer, PROMPTS, DRAWN) == first
    other = Sampling(max_new_tokens=24, temperature=1.0, seed=2)
    assert sample_answers(model, tokenizer, PROMPTS, other) != first


def test_sampling_leaves_the_global_random_state_as_it_was(model, tokenizer) -> None:
    before = torch.get_rng_state()
    sample_answers(model, tokenizer, PROMPTS, DRAWN)
    assert torch.equal(torch.get_rng_state(), before)


def test_answers_come_in_the_order_of_the_prompts(model, tokenizer) -> None:
    likeliest = Sampling(max_new_tokens=24)
    together = sample_answers(model, tokenizer, PROMPTS, likeliest)
    alone = [sample_answers(model, tokenizer, [prompt], likeliest)[0] for prompt in PROMPTS]
    assert together == alone


def test_small_batches_give_the_likeliest_answers_of_large_ones(model, tokenizer) -> None:
    likeliest = Sampling(max_new_tokens=24)
    seen = []
    small = sample_answers(
        model,
        tokenizer,
        PROMPTS,
        likeliest,
        batch_size=2,
        progress=lambda *step: seen.append(step),
    )
    assert small == sample_answers(model, tokenizer, PROMPTS, likeliest)
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_no_prompt_gives_no_answer(model, tokenizer) -> None:
    assert sample_answers(model, tokenizer, [], DRAWN) == []


def test_more_tokens_than_the_context_holds_are_refused(model, tokenizer) -> None:
    with pytest.raises(BaseModelError, match="do not fit the model's context"):
        sample_answers(model, tokenizer, PROMPTS, Sampling(max_new_tokens=100_000))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_p": float("nan")},
        {"max_new_tokens": 0},
    ],
)
def test_impossible_sampling_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="Sampling needs"):
        Sampling(**wrong)
