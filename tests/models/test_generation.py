import torch

import worded
from prefreg.data.rendering import encode_prompt
from prefreg.models.generation import generate, generation_config

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
