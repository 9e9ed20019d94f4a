import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import worded
from prefreg import BaseModelError, UsageError, pocket
from prefreg.data.rendering import encode_prompt
from prefreg.models.generation import generate, generation_config, sample_answers
from prefreg.models.sampling import Sampling

TOKENIZER = worded.tokenizer()
PROMPTS = [encode_prompt(pair.prompt, TOKENIZER) for pair in worded.pairs(4)]
PROMPTS[1] = PROMPTS[1][:-3]


def test_drawing_leaves_random_state_and_mode_as_they_were() -> None:
    model = worded.llama().train()
    config = generation_config(model, TOKENIZER, max_new_tokens=12, temperature=1.0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = generate(model, PROMPTS, config, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    torch.rand(3)
    assert generate(model, PROMPTS, config, seed=1) == first
    assert generate(model, PROMPTS, config, seed=2) != first


def test_an_answer_ends_with_the_token_that_ended_it() -> None:
    model = worded.llama()
    config = generation_config(model, TOKENIZER, max_new_tokens=12, temperature=1.0)
    answers = [ids for seed in range(20) for ids in generate(model, PROMPTS, config, seed=seed)]
    ends = set(config.eos_token_id)
    ended = [ids for ids in answers if ids[-1] in ends]
    assert ended
    assert all(not ends & set(ids[:-1]) for ids in answers)
    assert all(len(ids) == 12 for ids in answers if ids[-1] not in ends)


def test_weights_that_are_no_numbers_raise_nothing_where_that_is_asked_for() -> None:
    model = worded.llama()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    config = generation_config(
        model, TOKENIZER, max_new_tokens=3, temperature=1.0, remove_invalid_values=True
    )
    assert len(generate(model, PROMPTS, config, seed=0)) == len(PROMPTS)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(temperature: float, value: float) -> None:
    model = worded.llama()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[1, 2] = value
    config = generation_config(model, TOKENIZER, max_new_tokens=3, temperature=temperature)
    with pytest.raises(BaseModelError, match=r"NaN or infinity stands in '.*up_proj.weight'"):
        generate(model, PROMPTS, config, seed=0)


def test_numbers_that_are_only_lost_on_the_way_are_told() -> None:
    model = worded.llama()
    with torch.no_grad():
        model.model.norm.weight.fill_(3e38)
    config = generation_config(model, TOKENIZER, max_new_tokens=3, temperature=0)
    with pytest.raises(BaseModelError, match="computes no finite numbers: take smaller"):
        generate(model, PROMPTS, config, seed=0)


QUESTIONS = pocket.prompts("benign", limit=5, seed=3)
DRAWN = Sampling(max_new_tokens=24, temperature=1.0, seed=1)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(pocket.model_dir()).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(pocket.model_dir())


def test_the_same_seed_draws_the_same_answers(model, tokenizer) -> None:
    first = sample_answers(model, tokenizer, QUESTIONS, DRAWN)
    torch.rand(7)
    assert sample_answers(model, tokenizer, QUESTIONS, DRAWN) == first
    other = Sampling(max_new_tokens=24, temperature=1.0, seed=2)
    assert sample_answers(model, tokenizer, QUESTIONS, other) != first


def test_sampling_leaves_the_global_random_state_as_it_was(model, tokenizer) -> None:
    before = torch.get_rng_state()
    sample_answers(model, tokenizer, QUESTIONS, DRAWN)
    assert torch.equal(torch.get_rng_state(), before)


def test_answers_come_in_the_order_of_the_prompts(model, tokenizer) -> None:
    likeliest = Sampling(max_new_tokens=24)
    together = sample_answers(model, tokenizer, QUESTIONS, likeliest)
    alone = [sample_answers(model, tokenizer, [prompt], likeliest)[0] for prompt in QUESTIONS]
    assert together == alone


def test_small_batches_give_the_likeliest_answers_of_large_ones(model, tokenizer) -> None:
    likeliest = Sampling(max_new_tokens=24)
    seen = []
    small = sample_answers(
        model,
        tokenizer,
        QUESTIONS,
        likeliest,
        batch_size=2,
        progress=lambda *step: seen.append(step),
    )
    assert small == sample_answers(model, tokenizer, QUESTIONS, likeliest)
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_the_coldest_draws_are_the_likeliest_tokens(model, tokenizer) -> None:
    coldest = Sampling(max_new_tokens=8, temperature=1e-300)
    likeliest = Sampling(max_new_tokens=8)
    assert sample_answers(model, tokenizer, QUESTIONS, coldest) == sample_answers(
        model, tokenizer, QUESTIONS, likeliest
    )


def test_weights_without_measure_are_told(model, tokenizer) -> None:
    broken = copy.deepcopy(model)
    broken.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(BaseModelError, match="NaN or infinity stands in"):
        sample_answers(broken, tokenizer, QUESTIONS, DRAWN)


@pytest.mark.parametrize("end", ["x", [[1]], {}, 1.5])
def test_an_end_that_is_no_token_is_told(model, tokenizer, end: object) -> None:
    other = copy.deepcopy(model)
    other.generation_config.eos_token_id = end
    with pytest.raises(BaseModelError, match="which is no token"):
        generation_config(other, tokenizer, max_new_tokens=1, temperature=0)


def test_no_prompt_gives_no_answer(model, tokenizer) -> None:
    assert sample_answers(model, tokenizer, [], DRAWN) == []


def test_more_tokens_than_the_context_holds_are_refused(model, tokenizer) -> None:
    with pytest.raises(BaseModelError, match="do not fit the model's context"):
        sample_answers(model, tokenizer, QUESTIONS, Sampling(max_new_tokens=100_000))


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


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_that_no_generator_takes_are_refused(seed: int) -> None:
    with pytest.raises(UsageError, match="seed"):
        Sampling(seed=seed)
