"""An axis as a reward model, from its φ alone."""

import json
from pathlib import Path

import pytest
import torch

import prefreg
from prefreg import UsageError, pocket
from prefreg.axes.axis import Message
from prefreg.checkpoints import resolve_base
from prefreg.composition.implicit_reward import beta_of
from prefreg.data.rendering import encode_prompt
from prefreg.errors import BaseModelError, DataError, OutputError
from prefreg.evaluation.axis_scores import compare_orders, read_answers
from prefreg.models.loading import load_model, load_tokenizer

ROWS = [
    {"prompt": "Which colour is Elsa's boat?", "answers": ["It is white.", "It is hard to say."]},
    {"prompt": "Which colour is Elsa's boat?", "answer": "It is white."},
    {
        "prompt": [{"role": "user", "content": "Who has a boat?"}],
        "chosen": [{"role": "assistant", "content": "Elsa has a white boat."}],
        "rejected": [{"role": "assistant", "content": "It is hard to say."}],
    },
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file of rows in three forms."""
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_a_reward_is_what_the_two_poles_say(trained: Path, file: Path, tmp_path: Path) -> None:
    registry = prefreg.open(trained)
    found = registry.score("helpful@1", file)
    assert [len(row.rewards) for row in found.rows] == [2, 1, 2]
    # The same answer to the same prompt, in another row.
    assert found.rows[0].rewards[0].value == pytest.approx(found.rows[1].rewards[0].value, abs=1e-5)
    # By hand: both poles as checkpoints, and the sum of what they give each token.
    base = resolve_base("pocket")
    tokenizer = load_tokenizer(base)
    prompt = encode_prompt((Message("user", str(ROWS[0]["prompt"])),), tokenizer)
    answer = tokenizer("It is white.</s>", add_special_tokens=False)["input_ids"]
    said = []
    for eta, folder in ((0.5, tmp_path / "plus"), (-0.5, tmp_path / "minus")):
        registry.compose({"helpful@1": eta}, folder)
        model = load_model(resolve_base(str(folder)))
        model.train(False)
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *answer]])).logits[0].double().log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        said.append(sum(float(logits[at, token]) for at, token in zip(places, answer, strict=True)))
    assert beta_of(found.record) == 0.1
    assert found.rows[0].rewards[0].value == pytest.approx(0.1 * (said[0] - said[1]), abs=1e-5)
    assert found.rows[0].rewards[0].tokens == len(answer)
    # Poles that are ± φ/2 rank as φ does.
    poles = registry.score(
        "helpful@1", file, plus=str(tmp_path / "plus"), minus=str(tmp_path / "minus")
    ).poles
    assert poles is not None
    assert poles.same_order == 1
    # Two rows have the same answer, whose order is that of rounding.
    assert poles.spearman > 0.97


def test_rows_are_written_with_their_rewards(trained: Path, file: Path, tmp_path: Path) -> None:
    found = prefreg.open(trained).score("helpful", file)
    found.write(tmp_path / "scored.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert [
        {name: row[name] for name in given} for row, given in zip(rows, ROWS, strict=True)
    ] == ROWS
    assert rows[0]["rewards"] == [each.value for each in found.rows[0].rewards]
    assert found.rows[0].ranks == (
        [1, 2] if rows[0]["rewards"][0] > rows[0]["rewards"][1] else [2, 1]
    )
    with pytest.raises(OutputError, match="is there already"):
        found.write(tmp_path / "scored.jsonl")
    assert found.accuracy is not None
    assert found.accuracy.count == 1


def test_orders_are_compared_within_rows_and_over_all() -> None:
    found = compare_orders([1.0, 2.0, 5.0, 4.0], [1.0, 2.0, 3.0, 4.0], [2, 2])
    assert found.same_order == 0.5
    assert found.spearman == pytest.approx(0.8)
    assert compare_orders([1.0], [2.0], [1]).same_order is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Who?"}, "none of the columns 'answer' or 'answers'"),
        ({"answer": "Elsa."}, "column 'prompt' is missing"),
        ({"prompt": "Who?", "answers": []}, "is no list of answers"),
        ({"prompt": "Who?", "answers": "Elsa."}, "is no list of answers"),
        ({"prompt": "Who?", "answers": [3]}, "neither a string nor a list of messages"),
        ({"prompt": "Who?", "answer": " "}, "an answer is empty"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, object], reason: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=rf"rows\.jsonl:1: .*{reason}"):
        read_answers(file)


def test_what_does_not_fit_is_refused(trained: Path, tmp_path: Path) -> None:
    registry = prefreg.open(trained)
    file = tmp_path / "long.jsonl"
    file.write_text(json.dumps({"prompt": "Who?", "answer": "It is white. " * 100}) + "\n")
    with pytest.raises(BaseModelError, match="more than the base's context of 256"):
        registry.score("helpful", file)
    with pytest.raises(UsageError, match="give both"):
        registry.score("helpful", file, plus=str(pocket.model_dir()))


def test_the_best_of_several_answers_is_the_one_with_the_most(trained: Path) -> None:
    model = prefreg.open(trained).load("pocket", {"helpful": 1})
    before = {name: each.clone() for name, each in model.model.named_parameters()}
    prompts = ["Which colour is Elsa's boat?", "Who has a boat?"]
    found = model.best_of(prompts, 3, by="verbosity@1", max_new_tokens=16)
    assert [len(each) for each in found] == [3, 3]
    for ranking in found:
        rewards = [each.reward.value for each in ranking]
        assert rewards == sorted(rewards, reverse=True)
    single = model.best_of(prompts[0], 2, by="verbosity", max_new_tokens=16)
    assert len(single) == 2
    # The dials stand as they stood.
    assert all(torch.equal(each, before[name]) for name, each in model.model.named_parameters())
    assert str(model.terms[0]) == "helpful:1"
    with pytest.raises(UsageError, match="is the only answer"):
        model.best_of("Who?", 4, by="verbosity", temperature=0)
