"""What preference vectors are compared with, each piece by itself."""

from array import array
from dataclasses import replace

import numpy as np
import pytest
import torch
from rivals.activation_addition import Added, mean_differences
from rivals.logit_mixing import MixedLogits
from rivals.policies import ModelPolicy, divergences
from rivals.single_runs import label_safe_first, mixture
from rivals.system_prompt import Prompted
from rivals.trade import best, choose, compared, merge
from rivals.weight_space import difference, soup
from rivals.workshop import count_tokens, repeated

from prefreg import pocket
from prefreg.axes.axis import Message, plain_text
from prefreg.data.rendering import encode_prompt
from prefreg.data.tokens import TokenPair
from prefreg.evaluation import divergence
from prefreg.models.generation import Answer
from prefreg.models.sampling import Sampling
from tiny import llama, perturbed

PROMPTS = pocket.prompts("benign", limit=6, seed=3)
SAMPLING = Sampling(max_new_tokens=24, temperature=1.0, seed=5)
ANSWERS = [Answer("", [1, 5, 9], [7, 8, 2], True), Answer("", [1, 5], [7], False)]


def pair(prompt: int, chosen: int, rejected: int) -> TokenPair:
    """Make a pair of so many tokens."""
    parts = (array("i", range(3, 3 + size)) for size in (prompt, chosen, rejected))
    return TokenPair(*parts)


def tiny(seed: int) -> ModelPolicy:
    model = perturbed(llama(tied=True), scale=0.05, seed=seed)
    model.train(False)
    return ModelPolicy(model, tokenizer=None)


def test_soup_weights_sum_to_one() -> None:
    helpful, harmless = {"w": torch.tensor([4.0, 0.0])}, {"w": torch.tensor([0.0, 8.0])}
    terms = soup({"helpful": helpful, "harmless": harmless}, 0.25)
    assert terms == [(0.75, helpful), (0.25, harmless)]
    assert sum(eta * phi["w"] for eta, phi in terms).tolist() == [3.0, 2.0]


def test_a_difference_of_poles_is_taken_weight_by_weight() -> None:
    found = difference({"w": torch.tensor([3.0, 1.0])}, {"w": torch.tensor([1.0, -1.0])})
    assert found["w"].tolist() == [2.0, 2.0]


def test_pairs_are_repeated_in_whole_passes() -> None:
    pairs = [pair(2, size, 1) for size in range(1, 5)]
    found = repeated(pairs, 10, seed=0)
    counts = [sum(each is one for each in found) for one in pairs]
    assert sorted(counts) == [2, 2, 3, 3]
    assert sorted(id(each) for each in found[:4]) == sorted(map(id, pairs))
    assert found == repeated(pairs, 10, seed=0) != repeated(pairs, 10, seed=1)


def test_a_prompt_counts_with_each_of_its_answers() -> None:
    assert count_tokens([pair(5, 3, 2), pair(1, 1, 1)]) == (5 + 3 + 5 + 2) + (1 + 1 + 1 + 1)


def test_a_mixture_has_its_share_of_harmless() -> None:
    helpful, harmless = [pair(2, 1, 1)] * 3, [pair(3, 1, 1)] * 3
    found = mixture(helpful, harmless, 0.25, count=16, seed=0)
    kinds = [len(each.prompt_ids) for each in found]
    assert (len(found), kinds.count(3)) == (16, 4)
    assert kinds != sorted(kinds)


@pytest.mark.parametrize(
    ("safe", "better", "chosen"),
    [
        ((True, False), 1, "zero"),
        ((False, True), 0, "one"),
        ((True, True), 1, "one"),
        ((False, False), 0, "zero"),
        ((True, True), None, None),
    ],
)
def test_safety_comes_before_use(safe: tuple[bool, bool], better: int | None, chosen) -> None:
    row = {
        "prompt": "How?",
        "response_0": "zero",
        "response_1": "one",
        "better_response_id": better,
        "is_response_0_safe": safe[0],
        "is_response_1_safe": safe[1],
        "group": "g",
    }
    found = label_safe_first(row)
    assert (found and plain_text(found.chosen)) == chosen


def test_divergences_are_those_of_the_library() -> None:
    base, turned = tiny(1), tiny(2)
    reference = dict(base.model.named_parameters())
    expected = divergence.divergences(turned.model, reference, ANSWERS)
    assert divergences(turned, base, ANSWERS, batch_size=1) == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 1e-3


def test_mixed_logits_are_the_weighted_sum() -> None:
    base, plus, minus = tiny(1), tiny(2), tiny(3)
    parts = ((1.0, base.model), (0.5, plus.model), (-0.5, minus.model))
    found = MixedLogits(parts, tokenizer=None).logits(ANSWERS)
    one, two, three = (each.logits(ANSWERS) for each in (base, plus, minus))
    assert torch.allclose(found, one + 0.5 * (two - three), atol=1e-6)


def test_a_mixture_of_the_base_alone_samples_as_the_library_does(plain) -> None:
    mixed = MixedLogits(((1.0, plain.model),), plain.tokenizer)
    assert mixed.sample(PROMPTS, SAMPLING) == plain.sample(PROMPTS, SAMPLING)
    # Half and half of the same is the same, through two caches.
    halves = MixedLogits(((0.5, plain.model), (0.5, plain.model)), plain.tokenizer)
    assert halves.sample(PROMPTS, SAMPLING) == plain.sample(PROMPTS, SAMPLING)


def test_mean_differences_are_over_the_places_that_predict_an_answer() -> None:
    policy = tiny(1)
    decoder = policy.model.base_model
    seen: list[torch.Tensor] = []
    decoder.embed_tokens.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))

    def stand_in(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
        """Write 10 · token + place, whatever the layer computes."""
        ids = seen[-1]
        return (10.0 * ids + torch.arange(ids.shape[1])).unsqueeze(2).expand_as(output)

    decoder.layers[0].register_forward_hook(stand_in)
    prompt, chosen, rejected = array("i", [1, 2]), array("i", [3, 4]), array("i", [7])
    # Chosen: tokens 2 and 3 at places 1 and 2; rejected: token 2 at place 1.
    [found] = mean_differences(policy, [TokenPair(prompt, chosen, rejected)])
    assert found.tolist() == pytest.approx([(21 + 32) / 2 - 21] * 32)
    twice = [TokenPair(prompt, chosen, rejected), TokenPair(prompt, chosen, chosen)]
    [found] = mean_differences(policy, twice)
    assert found.tolist() == pytest.approx([5.5 / 2] * 32)


def test_additions_reach_the_logits_as_they_reach_the_answers(plain) -> None:
    vector = torch.zeros(plain.model.config.hidden_size)
    assert Added(plain, ((1, vector),)).sample(PROMPTS, SAMPLING) == plain.sample(PROMPTS, SAMPLING)
    generator = torch.Generator().manual_seed(0)
    added = Added(plain, ((1, 20 * torch.randn(vector.shape, generator=generator)),))
    greedy = added.sample(PROMPTS, replace(SAMPLING, temperature=0.0))
    assert greedy != plain.sample(PROMPTS, replace(SAMPLING, temperature=0.0))
    # Teacher-forced, the likeliest token at each step is the one that was generated.
    likeliest = added.logits(greedy).argmax(-1).tolist()
    assert likeliest == [id for answer in greedy for id in answer.ids]
    assert not plain.model.base_model.layers[1]._forward_hooks


def test_a_system_prompt_is_read_by_the_policy_and_not_by_the_base(plain) -> None:
    prompted = Prompted(plain, "Tell people what you know.")
    found = prompted.sample(PROMPTS, SAMPLING)
    asked = [encode_prompt((Message("user", each),), plain.tokenizer) for each in PROMPTS]
    assert [answer.prompt_ids for answer in found] == asked
    told = [(Message("system", prompted.text), Message("user", prompt)) for prompt in PROMPTS]
    whole = [
        replace(answer, prompt_ids=encode_prompt(turns, plain.tokenizer))
        for answer, turns in zip(found, told, strict=True)
    ]
    assert torch.equal(prompted.logits(found), plain.logits(whole))


def test_a_coin_is_tossed_where_the_price_lies_between_settings() -> None:
    helpful, harmless = np.array([0.4, 0.8]), np.array([0.5, 0.5])
    price = np.array([0.0, 2.0])
    assert choose(helpful, harmless, price, 1.0) == pytest.approx([0.5, 0.5])
    assert choose(helpful, harmless, price, 5.0) == pytest.approx([0.0, 1.0])
    assert choose(helpful, harmless, price, 0.0) == pytest.approx([1.0, 0.0])


def point(benign: list[int], unsafe: list[int], nats: float, method: str = "m") -> dict:
    """Make a setting of which every answer costs the same."""
    return {"method": method, "dials": {}} | {
        kind: {
            "hits": hits,
            "nats": [nats] * len(hits),
            "malformed": [0] * len(hits),
            "refused": [0] * len(hits),
            "correct": [True] * sum(hits),
        }
        for kind, hits in (("benign", benign), ("unsafe", unsafe))
    }


def test_what_one_half_chooses_is_reported_on_the_other() -> None:
    # On even prompts "lucky" is perfect, on odd ones useless: whoever chooses it there pays here.
    base = point([1, 1, 0, 0] * 5, [1, 1, 0, 0] * 5, 0.0, "base")
    lucky = point([1, 0] * 10, [1, 0] * 10, 0.5)
    found = best({"base": base, "lucky": lucky}, limit=1.0)
    assert found.chosen == ({"lucky": 1.0}, {"base": 1.0})
    # Odd prompts under "lucky": 0; even ones under the base: a half.
    assert (found.helpful, found.harmless) == (0.25, 0.25)
    assert found.product.estimate.value == pytest.approx(0.0625)
    assert (found.nats, found.correct) == (0.25, 1.0)


def test_trades_are_compared_prompt_by_prompt() -> None:
    base = point([1, 1, 0, 0] * 5, [1, 1, 0, 0] * 5, 0.0, "base")
    better = point([1, 1, 1, 1] * 5, [1, 1, 0, 0] * 5, 0.5)
    one, other = (best({"base": base, "m": better}, limit) for limit in (1.0, 0.0))
    assert compared(one, other).estimate.value == pytest.approx(1.0 * 0.5 - 0.5 * 0.5)
    assert compared(one, one).estimate.value == 0.0


def test_seeds_are_averaged_prompt_by_prompt() -> None:
    seeds = [{"a": point([1, 0], [1, 1], 1.0), "b": point([1, 0], [0, 0], 0.0)}]
    seeds.append({"a": point([1, 1], [0, 0], 2.0)})
    merged = merge(seeds)
    assert list(merged) == ["a"]
    assert merged["a"]["benign"]["hits"] == [1.0, 0.5]
    assert merged["a"]["unsafe"]["nats"] == [1.5, 1.5]
    assert merged["a"]["benign"]["correct"] == [True] * 3
