from array import array

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import worded
from prefreg.data.tokens import TokenPair
from prefreg.models import prompt_rows as module
from prefreg.models.log_probs import answer_log_probs
from prefreg.models.prompt_rows import attention_mask, lay_out, row_length, token_scores

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
    monkeypatch.setattr(module, "_LOGITS_LIMIT", 3 * worded.llama().config.vocab_size)
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
