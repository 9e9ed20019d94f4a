"""Rows become the tokens that TRL's own trainer makes of them, or are refused with a reason."""

import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import byte_tokens
import worded
from byte_tokens import assistant, of_trl, row, user, written
from prefreg import DataError, Message, PreferencePair
from prefreg.data.instructions import Instruction, read_row
from prefreg.data.rendering import encode_prompt
from prefreg.data.tokens import tokenise_answers, tokenise_pairs

TEMPLATE = (
    "{% if loud %}<|start|>loud<|end|>\n{% endif %}"
    "{% if tools %}<|start|>tools\n{{ tools | tojson }}<|end|>\n{% endif %}"
    "{% for m in messages %}<|start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}[because] {{ m.reasoning_content }} {% endif %}"
    "{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}[call] {{ call.function | tojson }}{% endfor %}"
    "<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
THINKING = TEMPLATE.replace("<|start|>assistant\n{% endif", "<|start|>assistant\n[think]\n{% endif")


def tokenizer(template: str | None = TEMPLATE, *, bos: bool = False) -> PreTrainedTokenizerFast:
    return byte_tokens.tokenizer(template, bos=bos)


def dialogues(*turns: dict[str, Any]) -> dict[str, Any]:
    return {"chosen": [*turns, assistant("red")], "rejected": [*turns, assistant("green")]}


CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "a boat", "no": 1}}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
ASKED = [user("what colour?")]
RED, GREEN = [assistant("red")], [assistant("green")]
HEAD = "\n\nHuman: what colour?\n\nAssistant:"

SAME: dict[str, dict[str, Any]] = {
    "conversational": row(ASKED, RED, GREEN),
    "a system turn": row([{"role": "system", "content": "be short"}, *ASKED], RED, GREEN),
    "an answer of several turns": row(ASKED, [*RED, user("sure?"), *RED], [*GREEN, user("?")]),
    "strings": row("what colour? ", "red", "green"),
    "strings whose end merges": row("what colour?\n", " red", " green"),
    "strings that end themselves": row("what colour? ", "red<|end|>", "green"),
    "strings that end twice": row("what colour? ", "red<|end|><|end|>", "green<|end|>\n"),
    "strings that end otherwise": row("what colour? ", "red<|start|>", "green\n"),
    "implicit": dialogues(*ASKED),
    "implicit over several turns": dialogues(user("hi"), assistant("hello"), *ASKED),
    "implicit, one answer longer": {"chosen": [*ASKED, *RED], "rejected": [*ASKED, *RED, *ASKED]},
    "implicit strings": {"chosen": "what colour? red", "rejected": "what colour? green"},
    "Human and Assistant": {"chosen": HEAD + " It is red", "rejected": HEAD + " It is green"},
    "a string beside dialogues": {"prompt": "what colour?", **dialogues(*ASKED)},
    "from and value": row(
        [{"from": "human", "value": "what colour?"}],
        [{"from": "gpt", "value": "red"}],
        [{"from": "gpt", "value": "green"}],
    ),
    "tools": row(ASKED, RED, GREEN, tools=[TOOL]),
    "tools as text": row(ASKED, RED, GREEN, tools=json.dumps([TOOL])),
    "tools and an implicit prompt": dialogues(*ASKED) | {"tools": [TOOL]},
    "no tools": row(ASKED, RED, GREEN, tools=[]),
    "a call": row(ASKED, [assistant("so", tool_calls=[CALL])], GREEN),
    "a call alone": row(ASKED, [assistant(None, tool_calls=[CALL])], GREEN),
    "a call in the history": row(
        [*ASKED, assistant("", tool_calls=[CALL]), {"role": "tool", "content": '"red"\n'}],
        RED,
        GREEN,
    ),
    "reasoning": row(ASKED, [assistant("red", reasoning_content="a fox")], [assistant("green")]),
    "template options": row(ASKED, RED, GREEN, chat_template_kwargs={"loud": True}),
}


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("form", SAME)
def test_a_row_becomes_the_tokens_that_trl_makes_of_it(form: str, bos: bool) -> None:
    using = tokenizer(("<s>" if bos else "") + TEMPLATE, bos=bos)
    expected = of_trl(SAME[form], using)
    found, _ = written(SAME[form], using)
    assert [using.decode(ids) for ids in found] == [using.decode(ids) for ids in expected]
    assert found == expected


@pytest.mark.parametrize("form", ["conversational", "implicit", "a call", "tools"])
def test_an_opening_of_thought_is_left_out_as_by_trl_and_told(form: str) -> None:
    using = tokenizer(THINKING)
    found, made = written(SAME[form], using)
    assert found == of_trl(SAME[form], using)
    assert using.decode(found[0]).endswith("<|start|>assistant\n")
    assert (made.manner.diverged, made.merged) == (1, 0)
    [told] = made.manner.notes("pairs")
    assert told.startswith("The chat template ends the prompt of 1 pairs with '[think]\\n', which")


def test_a_template_that_writes_the_question_differently_alone_is_refused() -> None:
    template = TEMPLATE.replace(
        "{{ m.content or '' }}",
        (
            "{% if loop.last and not add_generation_prompt or loop.index > 1 %}{{ m.content }}"
            "{% else %}{{ 'asked: ' if add_generation_prompt }}{{ m.content }}{% endif %}"
        ),
    )
    with pytest.raises(DataError, match="writes the question of pair 1 differently alone") as told:
        written(SAME["conversational"], tokenizer(template))
    assert "comes 'asked: what colour?" in str(told.value)


@pytest.mark.parametrize(
    ("given", "template", "named"),
    [
        (SAME["reasoning"], TEMPLATE.replace("reasoning_content", "thoughts"), "reasoning_content"),
        (SAME["a call"], TEMPLATE.replace("m.tool_calls", "m.calls"), "tool_calls"),
        (SAME["tools"], TEMPLATE.replace("if tools", "if instruments"), "tools"),
        (row([user("what colour?", name="Ann")], RED, GREEN), TEMPLATE, "name"),
    ],
)
def test_what_the_template_does_not_write_is_told(
    given: dict[str, Any], template: str, named: str
) -> None:
    _, made = written(given, tokenizer(template))
    assert made.manner.incomplete == 1
    [told] = made.manner.notes("pairs")
    assert told.startswith(f"The chat template does not write all of 1 pairs: {named!r} (1).")
    assert not written(SAME["a call"], tokenizer())[1].manner.notes("pairs")


@pytest.mark.parametrize("form", ["a call", "reasoning", "tools", "template options"])
def test_without_a_template_nothing_beside_the_content_can_be_written(form: str) -> None:
    with pytest.raises(DataError, match=r"no chat template, so that '\w+' of pair 1 cannot be"):
        written(SAME[form], tokenizer(None))


def test_strings_on_a_base_with_a_template_are_told_once() -> None:
    _, made = written(SAME["strings"], tokenizer())
    assert made.renderings == ("text",)
    [told] = made.manner.notes("pairs", "Write messages.")
    assert told == (
        "1 pairs are strings, which are taken verbatim, as by TRL: the base's chat template is "
        "not used. Write messages."
    )
    assert not written(SAME["strings"], tokenizer(None))[1].manner.notes("pairs")


@pytest.mark.parametrize("form", ["tools", "template options", "a call in the history"])
def test_a_prompt_to_answer_is_written_as_in_training(form: str) -> None:
    using = tokenizer()
    pair = PreferencePair.from_row(SAME[form])
    found = encode_prompt(pair.prompt, using, pair.told)
    assert found[: len(written(pair, using)[0][0])] == written(pair, using)[0][0]


def test_instructions_keep_their_tools_and_calls() -> None:
    given = {"messages": [*ASKED, assistant(None, tool_calls=[CALL])], "tools": [TOOL]}
    _, [example] = read_row(given)
    assert example == Instruction(
        (Message("user", "what colour?"),),
        (Message("assistant", "", {"content": None, "tool_calls": [CALL]}),),
        tools=json.dumps([TOOL]),
    )
    using = tokenizer()
    [made] = tokenise_answers([example], using, max_length=1000).answers
    assert using.decode(made.prompt_ids.tolist()).startswith("<|start|>tools\n[{")
    assert using.decode(made.answer_ids.tolist()).startswith("[call] {")


def test_a_turn_that_tells_nothing_more_changes_no_token() -> None:
    plain = PreferencePair.from_texts(prompt="is it red", chosen="yes", rejected="no no")
    told = PreferencePair.from_row(
        row([user("is it red", name=None)], [assistant("yes")], [assistant("no no")])
    )
    assert told == plain
    made = tokenise_pairs([plain, told], worded.tokenizer(), max_length=48)
    assert made.pairs[0] == made.pairs[1]
