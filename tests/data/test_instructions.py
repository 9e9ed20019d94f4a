import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import worded
from prefreg.axes.axis import Message
from prefreg.data.instructions import Instruction, read_instructions, read_row
from prefreg.data.tokens import tokenise_answers
from prefreg.errors import BaseModelError, DataError

ASKED = Message("user", "what is the colour of the boat ?")
ANSWERED = Message("assistant", "it is red .")
EXAMPLE = Instruction((ASKED,), (ANSWERED,))


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def write(path: Path, *rows: Mapping[str, Any]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASKED._asdict(), ANSWERED._asdict()], "source": "x"},
        {"prompt": [ASKED._asdict()], "completion": [ANSWERED._asdict()]},
        {"prompt": [ASKED._asdict()], "completion": ANSWERED.content},
        {"instruction": ASKED.content, "input": "", "output": ANSWERED.content},
        {"instruction": ASKED.content, "output": ANSWERED.content},
    ],
    ids=["messages", "prompt-completion", "prompt-text", "alpaca", "alpaca-without-input"],
)
def test_every_form_of_a_row_is_the_same_example(row: dict[str, Any]) -> None:
    assert read_row(row)[1] == [EXAMPLE]


def test_strings_stay_verbatim_and_an_input_follows_its_instruction() -> None:
    form, [example] = read_row({"prompt": "boat :", "completion": " red"})
    assert (form, example) == ("prompt/completion", Instruction("boat :", " red"))
    _, [example] = read_row({"instruction": "is it red ?", "input": "the boat", "output": "yes"})
    assert example.prompt == (Message("user", "is it red ?\n\nthe boat"),)


def test_each_turn_of_the_assistant_is_learnt_after_all_that_came_before() -> None:
    turns = [ASKED, ANSWERED, Message("user", "is it old ?"), Message("assistant", "no")]
    _, examples = read_row({"messages": [turn._asdict() for turn in turns]})
    assert examples == [EXAMPLE, Instruction(tuple(turns[:3]), (turns[3],))]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "red"}, "none of the columns 'messages'.*found: text"),
        ({"messages": []}, "'messages' is no list of messages"),
        ({"messages": [said("user", "red ?")]}, "no turn of the assistant"),
        ({"messages": [said("assistant", "red")]}, "begins with the assistant"),
        ({"messages": [{"speaker": "human", "value": "red"}]}, "without 'role' and 'content'"),
        ({"messages": [{"from": "human", "value": "red"}]}, "no turn of the assistant"),
        ({"instruction": 3, "output": "red"}, "must be strings"),
        ({"instruction": " ", "output": "red"}, "'instruction' is empty"),
        ({"prompt": "", "completion": "red"}, "'prompt' is empty"),
        ({"instruction": "\ud800", "output": "red"}, "half of a surrogate pair"),
    ],
)
def test_a_row_that_is_no_example_is_named_by_its_line(
    tmp_path: Path, row: dict[str, Any], words: str
) -> None:
    good = {"instruction": "red ?", "output": "yes"}
    file = write(tmp_path / "rows.jsonl", good, row)
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: .*{words}"):
        read_instructions(file)


def test_what_teaches_nothing_is_counted_and_dropped(tmp_path: Path) -> None:
    rows = [{"instruction": f"is {n} red ?", "output": "yes"} for n in range(4)]
    empty = {"instruction": "what is it ?", "output": "  "}
    found = read_instructions(write(tmp_path / "rows.jsonl.gz", *rows, rows[0], empty))
    assert (found.audit.rows, found.audit.examples) == (6, 6)
    assert (found.audit.empty, found.audit.duplicates) == (1, 1)
    assert (found.audit.train, found.audit.heldout) == (4, 0)
    with pytest.raises(DataError, match="no answer to learn: of 1 in 1 rows, 1 are empty"):
        read_instructions(write(tmp_path / "empty.jsonl", empty))


def test_whole_prompts_are_held_out_whatever_the_order(tmp_path: Path) -> None:
    rows = [
        {"instruction": f"is {n} red ?", "output": answer}
        for n in range(30)
        for answer in ("yes", "no")
    ]
    found = read_instructions(write(tmp_path / "one.jsonl", *rows))
    assert len(found.heldout) == 6
    prompts = [{example.prompt for example in part} for part in (found.train, found.heldout)]
    assert prompts[0].isdisjoint(prompts[1])
    again = read_instructions(write(tmp_path / "two.jsonl", *reversed(rows)))
    assert again == found


def test_a_file_of_held_out_examples_leaves_the_others_to_be_learnt(tmp_path: Path) -> None:
    rows = [{"instruction": f"is {n} red ?", "output": "yes"} for n in range(30)]
    train, held = write(tmp_path / "a.jsonl", *rows), write(tmp_path / "b.jsonl", *rows[:3])
    found = read_instructions(train, heldout=held, limit=20)
    assert (found.audit.rows, found.audit.train, found.audit.heldout) == (20, 20, 3)


def test_only_the_answer_is_learnt_with_the_token_that_ends_it() -> None:
    tokenizer = worded.tokenizer()
    found = tokenise_answers([EXAMPLE], tokenizer, max_length=48)
    [answer] = found.answers
    assert tokenizer.decode(list(answer.answer_ids)) == "it is red .</s>"
    assert tokenizer.decode(list(answer.prompt_ids)).endswith("boat ?<assistant> ")
    assert (found.renderings, found.truncated) == ({"chat"}, 0)


def test_longer_answers_are_cut_or_dropped_and_counted() -> None:
    tokenizer = worded.tokenizer()
    length = len(tokenise_answers([EXAMPLE], tokenizer, max_length=48).answers[0])
    cut = tokenise_answers([EXAMPLE], tokenizer, max_length=length - 2)
    assert (len(cut.answers[0]), cut.truncated) == (length - 2, 1)
    gone = tokenise_answers([EXAMPLE], tokenizer, max_length=length - 2, policy="drop")
    assert (gone.answers, gone.dropped_long) == ((), 1)
    assert tokenise_answers([EXAMPLE], tokenizer, max_length=5).dropped_long == 1
    with pytest.raises(DataError, match="1 of 1 examples are longer than 5 tokens"):
        tokenise_answers([EXAMPLE], tokenizer, max_length=5, policy="refuse")


def test_a_vocabulary_that_is_too_small_is_named() -> None:
    with pytest.raises(BaseModelError, match="the model embeds only 4 tokens"):
        tokenise_answers([EXAMPLE], worded.tokenizer(), max_length=48, vocabulary=4)
