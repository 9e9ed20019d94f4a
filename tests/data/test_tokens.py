from typing import Any

import pytest

import worded
from prefreg.axes.axis import Message, PreferencePair
from prefreg.data.instructions import Instruction
from prefreg.data.rendering import encode_prompt, padding_id
from prefreg.data.tokens import check_max_length, preview_tokens, tokenise_answers, tokenise_pairs
from prefreg.errors import BaseModelError, DataError, UsageError

CHAT = PreferencePair.from_texts(prompt="is it red", chosen="yes", rejected="no no")
TEXT = PreferencePair(prompt="is it ", chosen="red", rejected="old")


def words(pair: PreferencePair, tokenizer: Any, **options: Any) -> tuple[str, str, str]:
    made = tokenise_pairs([pair], tokenizer, **{"max_length": 48, **options})
    [tokens] = preview_tokens(made.pairs, tokenizer)
    return tuple(  # type: ignore[return-value]
        "|".join(token.text for token in tokens if token.role == role)
        for role in ("prompt", "chosen", "rejected")
    )


def test_messages_are_rendered_through_the_chat_template() -> None:
    assert words(CHAT, worded.tokenizer()) == (
        "<user>| |is| |it| |red|<assistant>| ",
        "yes|</s>",
        "no| |no|</s>",
    )


def test_without_a_template_contents_are_joined_and_the_end_is_added() -> None:
    pair = PreferencePair(
        prompt=(Message("system", "red "), Message("user", "is it ")),
        chosen=(Message("assistant", "old"),),
        rejected=(Message("assistant", "big"),),
    )
    tokenizer = worded.tokenizer(template=None)
    assert words(pair, tokenizer) == ("red| |is| |it| ", "old|</s>", "big|</s>")
    assert tokenise_pairs([pair], tokenizer, max_length=48).renderings == ("none",)


def test_strings_are_verbatim_even_with_a_template() -> None:
    assert words(TEXT, worded.tokenizer()) == ("is| |it| ", "red|</s>", "old|</s>")


def test_the_beginning_is_added_where_the_tokenizer_adds_it_and_never_twice() -> None:
    tokenizer = worded.tokenizer(bos=True, template="<s>" + worded.TEMPLATE)
    assert words(TEXT, tokenizer)[0] == "<s>|is| |it| "
    assert words(CHAT, tokenizer)[0].startswith("<s>|<user>")
    begun = PreferencePair("<s>is it ", "red", "old")
    assert words(begun, tokenizer)[0] == "<s>|is| |it| "


@pytest.mark.parametrize("ending", ["", "</s>", "</s>\n", "</s></s>", " </s>", "<system>\n"])
def test_an_answer_ends_as_the_template_ends_it(ending: str) -> None:
    template = worded.TEMPLATE.replace("</s>", ending)
    assert words(CHAT, worded.tokenizer(template=template))[1].replace("|", "") == f"yes{ending}"


def test_an_answer_that_the_template_does_not_write_is_refused() -> None:
    pair = PreferencePair.from_row(
        {
            "prompt": [{"role": "user", "content": "is it"}],
            "chosen": [{"role": "assistant", "content": None, "tool_calls": [{"name": "red"}]}],
            "rejected": [{"role": "assistant", "content": "old"}],
        }
    )
    tokenizer = worded.tokenizer(template=worded.TEMPLATE.replace("</s>", ""))
    with pytest.raises(DataError, match="writes nothing of an answer of pair 1"):
        tokenise_pairs([pair], tokenizer, max_length=48)


@pytest.mark.parametrize("ending", ["", "</s>", "</s>\n", "<system>\n"])
def test_an_example_gets_an_end_where_its_template_writes_none(ending: str) -> None:
    template = worded.TEMPLATE.replace("</s>", ending)
    example = Instruction((Message("user", "is it"),), (Message("assistant", "yes"),))
    using = worded.tokenizer(template=template)
    [made] = tokenise_answers([example], using, max_length=48).answers
    assert using.decode(made.answer_ids.tolist()) == f"yes{ending or '</s>'}"


def test_an_answer_begins_where_the_prompt_alone_is_written_differently() -> None:
    template = worded.TEMPLATE.replace("<assistant> {% endif", "<assistant> sky {% endif")
    tokenizer = worded.tokenizer(template=template)
    assert words(CHAT, tokenizer) == words(CHAT, worded.tokenizer())
    made = tokenise_pairs([CHAT], tokenizer, max_length=48)
    assert (made.manner.diverged, made.merged) == (1, 0)


def test_white_space_that_merges_into_the_answer_is_no_error() -> None:
    pair = PreferencePair.from_texts(prompt="is it", chosen=" red", rejected=" old")
    made = tokenise_pairs([pair], worded.tokenizer(), max_length=48)
    assert made.merged == 1
    # Two blanks are one token, unknown to this tokenizer, and it belongs to the answer.
    assert words(pair, worded.tokenizer())[0] == "<user>| |is| |it|<assistant>"


def test_a_token_across_the_end_of_a_text_prompt_is_the_answers_and_counted() -> None:
    pair = PreferencePair("it is gre", "en", "y")
    made = tokenise_pairs([pair], worded.tokenizer(), max_length=48)
    assert made.merged == 1
    assert words(pair, worded.tokenizer())[:2] == ("it| |is| ", "green|</s>")


@pytest.mark.parametrize(
    ("template", "words_"),
    [
        ("{{ raise_exception('no system here') }}", "refused pair 1 (roles: system, user)"),
        ("{{ missing.attribute }}", "refused pair 1"),
        (
            worded.TEMPLATE.replace("messages %}", "messages if m['role'] != 'system' %}"),
            "leaves out or changes the 'system' turn of pair 1",
        ),
    ],
)
def test_a_template_that_refuses_or_drops_a_turn_is_an_error(template: str, words_: str) -> None:
    prompt = (Message("system", "big sky"), Message("user", "is it"))
    pair = PreferencePair(prompt, CHAT.chosen, CHAT.rejected)
    with pytest.raises(DataError) as caught:
        words(pair, worded.tokenizer(template=template))
    assert words_ in str(caught.value)


def test_long_answers_are_cut_or_dropped_by_the_policy() -> None:
    pairs = [
        TEXT,  # 4 + 2 tokens
        PreferencePair("is it ", "red", "no no no no no"),  # 4 + 10
        PreferencePair("is it red is it red ", "old", "big"),  # 12 + 2
        PreferencePair("is it ", "no no no no", "no no no no old"),  # the same once cut
    ]
    tokenizer = worded.tokenizer()
    cut = tokenise_pairs(pairs, tokenizer, max_length=8)
    assert (cut.kept, cut.dropped_long, cut.truncated, cut.indistinct) == ((0, 1), 1, 1, 1)
    assert [len(pair.rejected_ids) for pair in cut.pairs] == [2, 4]
    dropped = tokenise_pairs(pairs, tokenizer, max_length=8, policy="drop")
    assert (dropped.kept, dropped.dropped_long, dropped.truncated) == ((0,), 3, 0)
    with pytest.raises(
        DataError, match="3 of 4 pairs are longer than 8 tokens: raise `max_length=`"
    ):
        tokenise_pairs(pairs, tokenizer, max_length=8, policy="refuse")
    assert tokenise_pairs(pairs, tokenizer, max_length=48, policy="refuse").kept == (0, 1, 2, 3)


def test_no_pair_left_is_an_error_with_counts() -> None:
    with pytest.raises(DataError, match=r"None of 1 pairs is left .* 1 are too long and 0 have"):
        tokenise_pairs([TEXT], worded.tokenizer(), max_length=3)
    unknown = PreferencePair("is it ", "cat", "dog")
    with pytest.raises(DataError, match="0 are too long and 1 have answers of the same tokens"):
        tokenise_pairs([unknown], worded.tokenizer(), max_length=48)


def test_a_prompt_without_tokens_is_an_error() -> None:
    with pytest.raises(DataError, match="Pair 1 has no prompt token"):
        words(PreferencePair("", "red", "old"), worded.tokenizer())


def test_a_tokenizer_must_end_answers_and_fit_the_model() -> None:
    with pytest.raises(BaseModelError, match="no end-of-sequence token"):
        words(TEXT, worded.tokenizer(eos=None))
    with pytest.raises(BaseModelError, match="embeds only 10 tokens"):
        words(TEXT, worded.tokenizer(), vocabulary=10)


def test_padding_falls_back_to_the_end_and_changes_no_tokenizer() -> None:
    tokenizer = worded.tokenizer(pad=False)
    assert padding_id(tokenizer) == tokenizer.eos_token_id
    assert tokenizer.pad_token is None


def test_a_maximum_length_beyond_the_context_is_refused() -> None:
    check_max_length(48, 48)
    with pytest.raises(UsageError, match="49 is longer than the base model's context of 48"):
        check_max_length(49, 48)


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("template", [worded.TEMPLATE, None])
def test_a_prompt_to_answer_is_written_as_in_training(template: str | None, bos: bool) -> None:
    tokenizer = worded.tokenizer(template=template, bos=bos)
    for pair in (CHAT, TEXT):
        made = tokenise_pairs(
            [PreferencePair(pair.prompt, pair.chosen, pair.rejected)], tokenizer, max_length=48
        )
        if not made.merged:
            assert made.pairs[0].prompt_ids.tolist() == encode_prompt(pair.prompt, tokenizer)


def test_many_pairs_keep_their_positions() -> None:
    pairs = [PreferencePair("is it ", "red", "old " * (n % 3 + 1)) for n in range(1100)]
    made = tokenise_pairs(pairs, worded.tokenizer(), max_length=9, policy="drop")
    assert made.kept == tuple(n for n in range(1100) if n % 3 < 2)
