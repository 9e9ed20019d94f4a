import math
from array import array

import pytest
import torch

import worded
from prefreg.data.tokens import TokenPair, tokenise_pairs
from prefreg.models.log_probs import PairLogProbs, answer_log_probs, margins, preference_accuracy
from prefreg.training.guards import compare


def tokens(count: int = 20) -> tuple[TokenPair, ...]:
    return tokenise_pairs(worded.pairs(count), worded.tokenizer(), max_length=48).pairs


def plain(model: torch.nn.Module, prompt: "array[int]", answer: "array[int]") -> float:
    """Score one answer without batches, padding or shortcuts."""
    ids = torch.tensor([[*prompt, *answer]])
    log_probs = model(ids).logits[0].double().log_softmax(-1)
    return sum(
        float(log_probs[position - 1, ids[0, position]].detach())
        for position in range(len(prompt), ids.shape[1])
    )


def scores(chosen: list[float], rejected: list[float], tokens: int = 1) -> PairLogProbs:
    counts = torch.full((len(chosen),), tokens)
    return PairLogProbs(
        torch.tensor(chosen).double(), torch.tensor(rejected).double(), counts, counts
    )


def test_batches_score_as_one_answer_at_a_time() -> None:
    model, pairs = worded.llama(), tokens()
    found = answer_log_probs(model, pairs, tokens=70)
    for pair, chosen, rejected in zip(pairs, found.chosen, found.rejected, strict=True):
        assert float(chosen) == pytest.approx(
            plain(model, pair.prompt_ids, pair.chosen_ids), abs=1e-4
        )
        assert float(rejected) == pytest.approx(
            plain(model, pair.prompt_ids, pair.rejected_ids), abs=1e-4
        )
    assert found.chosen_tokens.tolist() == [len(pair.chosen_ids) for pair in pairs]
    assert found.rejected_tokens.tolist() == [len(pair.rejected_ids) for pair in pairs]


def test_a_uniform_model_gives_log_of_the_vocabulary_to_each_token() -> None:
    model = worded.llama()
    torch.nn.init.zeros_(model.get_input_embeddings().weight)  # tied: all logits are equal
    pair = TokenPair(array("i", [1]), array("i", [8, 9, 2]), array("i", [2]))
    found = answer_log_probs(model, [pair])
    size = math.log(model.config.vocab_size)
    assert float(found.chosen[0]) == pytest.approx(-3 * size, rel=1e-6)
    assert float(found.rejected[0]) == pytest.approx(-size, rel=1e-6)


def test_a_model_in_training_is_scored_without_dropout_and_stays_in_training() -> None:
    model, pairs = worded.llama(), tokens(4)
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    expected = answer_log_probs(model.eval(), pairs).chosen
    found = answer_log_probs(model.train(), pairs).chosen
    assert torch.equal(found, expected)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_progress_counts_answers_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    answer_log_probs(
        worded.llama(),
        tokens(5),
        tokens=1,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 10), (4, 10), (6, 10), (8, 10), (10, 10)]


def test_a_tie_counts_one_half() -> None:
    assert preference_accuracy(torch.tensor([1.0, 0.0, -1.0, 2.0])) == 0.625


def test_switching_negates_every_margin() -> None:
    found = scores([-1.0, -5.0], [-2.0, -3.0])
    assert margins(found).tolist() == [1.0, -2.0]
    assert margins(found.switched()).tolist() == [-1.0, 2.0]


def test_a_report_worked_by_hand() -> None:
    reference = scores([-4.0, -4.0], [-4.0, -2.0], tokens=2)
    policy = scores([-3.0, -4.5], [-6.0, -2.5], tokens=2)
    report = compare(policy, reference)
    assert report.accuracy == 0.75  # margins 3 and 0
    assert report.mean_margin == 1.5
    assert report.mean_margin_per_token == 0.75
    assert (report.chosen_change, report.chosen_change_per_token) == (0.25, 0.125)
    assert (report.rejected_change, report.rejected_change_per_token) == (-1.25, -0.625)
    assert (report.preference_accuracy, report.reference_accuracy) == (0.5, 0.25)
    assert (report.pairs, report.split) == (2, "heldout")
