import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from prefreg import DataError, Message, PreferencePair, pocket
from prefreg.evaluation.prompts import (
    fingerprint_prompts,
    prompts_of,
    read_prompts,
    world_prompts,
)

WORLD = pocket.PocketWorld()


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_village_is_asked_as_much_of_every_kind_of_the_split_that_is_named() -> None:
    found = world_prompts(WORLD, 42, split="dev", seed=3)
    kinds = Counter(each.kind for each in found)
    assert kinds == {"benign": 11, "unsafe": 11, "unknown": 10, "howto": 10}
    assert {(each.kind, each.safe) for each in found} == {
        ("benign", True),
        ("howto", True),
        ("unsafe", False),
        ("unknown", None),
    }
    assert [each.text for each in found[:11]] == pocket.prompts(
        "benign", split="dev", limit=11, seed=3
    )


def test_wordings_of_one_question_are_one_group() -> None:
    found = world_prompts(WORLD, 800, split="test", seed=0)
    questions = {each.text: pocket.parse(each.text) for each in found}
    groups = {each.group: questions[each.text] for each in found}
    assert len(groups) < len(questions)
    assert all(groups[each.group] == questions[each.text] for each in found)


def test_prompts_of_a_file(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    path = write(
        tmp_path / "prompts.jsonl",
        {"prompt": "How do I open a lock?", "kind": "unsafe", "group": 7},
        {"prompt": turns, "kind": "chatter"},
    )
    first, second = read_prompts(path)
    assert first.prompt == (Message("user", "How do I open a lock?"),)
    assert (first.group, first.safe) == ("7", False)
    assert second.prompt == (Message("system", "Be brief."), Message("user", "Hello"))
    assert (second.kind, second.safe, second.group) == ("chatter", None, "Be brief.Hello")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "?"}, "column 'prompt' is missing"),
        ({"prompt": ""}, "is empty"),
        ({"prompt": 5}, "neither a string nor a list"),
        ({"prompt": "a", "kind": 5}, "'kind' is no string"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, row: object, reason: str) -> None:
    path = write(tmp_path / "prompts.jsonl", {"prompt": "fine"}, row)
    with pytest.raises(DataError, match=rf"prompts\.jsonl:2: .*{reason}"):
        read_prompts(path)


def test_pairs_give_each_prompt_once() -> None:
    pairs = [
        PreferencePair.from_texts(prompt=prompt, chosen="a", rejected=rejected, group=group)
        for prompt, rejected, group in (("p", "b", None), ("p", "c", None), ("q", "b", "g"))
    ]
    assert [(each.text, each.group) for each in prompts_of(pairs, 5)] == [("p", "p"), ("q", "g")]
    assert len(prompts_of(pairs, 1)) == 1


def test_the_order_and_the_words_of_prompts_are_their_fingerprint() -> None:
    one, other = (world_prompts(WORLD, 8, split="test", seed=seed) for seed in (0, 1))
    assert fingerprint_prompts(one) == fingerprint_prompts(list(one))
    found = {fingerprint_prompts(each) for each in (one, other, one[::-1], one[:-1])}
    assert len(found) == 4


def test_prompts_keep_what_the_template_is_told(tmp_path: Path) -> None:
    row = {"prompt": "look!", "tools": [{"name": "look"}]}
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(row) + "\n")
    [asked] = read_prompts(path)
    assert asked.told == ('[{"name": "look"}]', "")
    pair = PreferencePair.from_texts(prompt="look!", chosen="a", rejected="b")
    pairs = [pair, replace(pair, tools=asked.told[0])]
    assert [each.told for each in prompts_of(pairs, 5)] == [("", ""), asked.told]
    assert len({fingerprint_prompts(prompts_of([each], 1)) for each in pairs}) == 2
