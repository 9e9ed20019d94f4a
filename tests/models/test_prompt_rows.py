from array import array
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import worded
from prefreg.data.tokens import TokenPair
from prefreg.models import prompt_rows as module
from prefreg.models.log_probs import answer_log_probs
from prefreg.models.prompt_rows import (
    attention_mask,
    lay_out,
    row_length,
    token_scores,
    why_not_rows,
)

IDS = st.lists(st.integers(0, 24), min_size=1, max_size=9).map(lambda ids: array("i", ids))
PAIRS = st.lists(st.builds(TokenPair, IDS, IDS, IDS), min_size=1, max_size=4)


def pair(prompt: list[int], chosen: list[int], rejected: list[int]) -> TokenPair:
    return TokenPair(array("i", prompt), array("i", chosen), array("i", rejected))


def test_a_layout_worked_by_hand() -> None:
    rows = lay_out([pair([5, 6, 7], [8, 9], [10, 11, 12]), pair([1], [2], [3, 4])])
    assert rows.ids.tolist() == [[5, 6, 7, 8, 10, 11], [1, 3, 0, 0, 0, 0]]
    # The rejected answer begins again where the prompt ends.
    assert rows.positions.tolist() == [[0, 1, 2, 3, 3, 4], [0, 1, 0, 0, 0, 0]]
    assert rows.segments.tolist() == [[0, 0, 0, 1, 2, 2], [0, 2, 3, 3, 3, 3]]
    assert rows.targets.tolist() == [8, 9, 2, 10, 11, 12, 3, 4]
    # The ends of the prompts, at 2 and 6, predict the first tokens of both answers.
    assert rows.predictors.tolist() == [2, 3, 6, 2, 4, 5, 6, 7]


def test_a_mask_worked_by_hand() -> None:
    segments = torch.tensor([[0, 0, 1, 2, 2, 3]])
    assert (attention_mask(segments)[0, 0] == 0).int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


@settings(max_examples=40, deadline=None)
@given(pairs=PAIRS)
def test_pairs_in_rows_score_as_answers_by_themselves(pairs: list[TokenPair]) -> None:
    model = worded.llama()
    shared = answer_log_probs(model, pairs, rows=True)
    plain = answer_log_probs(model, pairs, rows=False)
    assert lay_out(pairs).ids.shape == (len(pairs), max(map(row_length, pairs)))
    torch.testing.assert_close(shared.chosen, plain.chosen, rtol=0, atol=1e-4)
    torch.testing.assert_close(shared.rejected, plain.rejected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("purity", [True, False])
def test_a_head_in_parts_changes_neither_scores_nor_gradients(
    purity: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = lay_out([pair([5, 6, 7], [8, 9], [10, 11, 12]), pair([1], [2], [3, 4])])

    def run() -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        model = worded.llama(tied=False)
        scores = token_scores(model, rows, purity=purity)
        scores.log_probs.square().sum().backward()
        return scores.log_probs.detach(), scores.purity, model.lm_head.weight.grad

    whole = run()
    monkeypatch.setattr(module, "LOGITS_LIMIT", 3 * worded.llama().config.vocab_size)
    for found, expected in zip(run(), whole, strict=True):
        torch.testing.assert_close(found, expected)


def test_purity_is_the_log_of_the_sum_of_squares() -> None:
    model, one = worded.llama(), pair([5, 6], [7], [8])
    found = token_scores(model, lay_out([one]), purity=True).purity
    logits = model(torch.tensor([[5, 6]])).logits[0, -1]
    expected = logits.double().softmax(-1).square().sum().log().float()
    assert found is not None
    torch.testing.assert_close(found, expected.detach().expand(2))


def test_only_answers_are_projected_onto_the_vocabulary() -> None:
    model = worded.llama()
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    token_scores(model, lay_out([pair([1] * 20, [2, 3], [4, 5, 6])]))
    assert seen == [5]


SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SMALL: dict[str, Any] = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}
WINDOW = 8


def made(shape: tuple[int, int, int]) -> TokenPair:
    return TokenPair(*(array("i", [3] * length) for length in shape))


LONG = [made((20, 9, 14)), made((5, 2, 3)), made((1, 4, 1))]
SHORT = [made((3, 3, 4)), made((1, 1, 7))]
"""None longer than the window."""
TAKES_ROWS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama, eager": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation="eager")),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=2)),
    "gemma2, wide window, capped": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SIZES, head_dim=16, sliding_window=64, final_logit_softcapping=0.3)
    ),
    "cohere, scaled": lambda: CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.25)),
    "granite, divided": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=4.0)),
}
WINDOWED: dict[str, Callable[[], PreTrainedModel]] = {
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=WINDOW)),
    "mistral, eager": lambda: MistralForCausalLM(
        MistralConfig(**SIZES, sliding_window=WINDOW, attn_implementation="eager")
    ),
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=0)
    ),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=WINDOW)
    ),
}
REFUSES_ROWS: dict[str, Callable[[], PreTrainedModel]] = {
    "no positions": lambda: BloomForCausalLM(
        BloomConfig(**SMALL, hidden_size=32, n_layer=2, n_head=2)
    ),
    "distances by the mask": lambda: MptForCausalLM(
        MptConfig(**SMALL, d_model=32, n_layers=2, n_heads=2, max_seq_len=64)
    ),
    "no attention": lambda: MambaForCausalLM(
        MambaConfig(**SMALL, hidden_size=32, num_hidden_layers=2)
    ),
}


def build(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(0)
    return make().eval()


@pytest.mark.parametrize("name", TAKES_ROWS)
def test_a_model_that_takes_the_mask_scores_pairs_in_rows(name: str) -> None:
    model = build(TAKES_ROWS[name])
    assert why_not_rows(model, LONG) is None
    shared, plain = (answer_log_probs(model, LONG, rows=rows) for rows in (True, False))
    torch.testing.assert_close(shared.chosen, plain.chosen, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", WINDOWED)
def test_a_window_is_found_out_where_a_pair_is_longer(name: str) -> None:
    """Attention takes the mask and forgets its window: wrong in silence."""
    model = build(WINDOWED[name])
    assert "does not take the mask" in str(why_not_rows(model, LONG))
    assert why_not_rows(model, SHORT) is None
    torch.testing.assert_close(
        answer_log_probs(model, LONG).chosen, answer_log_probs(model, LONG, rows=False).chosen
    )


@pytest.mark.parametrize("name", REFUSES_ROWS)
def test_other_architectures_are_scored_answer_by_answer(name: str) -> None:
    model = build(REFUSES_ROWS[name])
    assert why_not_rows(model, LONG)
    found = answer_log_probs(model, LONG)
    assert torch.isfinite(found.chosen).all()


def test_a_head_that_scales_in_an_unknown_way_is_found_out() -> None:
    model = build(TAKES_ROWS["llama"])
    plain = model.forward

    def scaled(*args: Any, **options: Any) -> Any:
        found = plain(*args, **options)
        found.logits = found.logits * 1.5
        return found

    model.forward = scaled  # type: ignore[method-assign]
    assert "differ by" in str(why_not_rows(model, LONG))


def test_dropout_is_found_out_in_training_only_and_no_random_number_is_used_up() -> None:
    model = build(lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attention_dropout=0.1)))
    assert why_not_rows(model, LONG) is None
    state = torch.random.get_rng_state()
    assert "dropout" in str(why_not_rows(model.train(), LONG))
    assert torch.equal(torch.random.get_rng_state(), state)
