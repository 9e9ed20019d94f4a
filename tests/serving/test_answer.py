"""The text of an answer: what is given out, when, and where it ends."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from byte_tokens import tokenizer
from prefreg.serving.answer import Answer, Spelling
from prefreg.serving.asking import Ask, Piece

TOKENIZER = tokenizer(None)
SPELLING = Spelling(TOKENIZER)
END = TOKENIZER.eos_token_id


def encode(text: str) -> list[int]:
    ids: list[int] = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    return ids


def give(ids: list[int], **options) -> list[Piece]:
    """Take tokens until the answer ends."""
    ask = Ask(prompt=(5,), **({"max_tokens": 1000} | options))
    answer = Answer(ask, SPELLING, frozenset({END}))
    pieces = list[Piece]()
    for token in ids:
        if (piece := answer.take(token, None)) is not None:
            pieces.append(piece)
            if piece.finish:
                break
    return pieces


Words = st.text(st.sampled_from("ab é—😀"), max_size=30)


@given(Words, st.lists(st.text(st.sampled_from("ab é😀"), min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop_string(text: str, stop: list[str]) -> None:
    pieces = give([*encode(text), END], stop=tuple(stop))
    written = "".join(piece.text for piece in pieces)
    # The one that is complete first counts, the longest of those that end together.
    ends = [at for at in range(len(text) + 1) if any(text[:at].endswith(each) for each in stop)]
    wanted = text
    if ends:
        found = [each for each in stop if text[: ends[0]].endswith(each)]
        wanted = text[: ends[0] - max(map(len, found))]
    assert written == wanted
    assert pieces[-1].finish == "stop"
    assert not any("\N{REPLACEMENT CHARACTER}" in piece.text for piece in pieces)


@given(Words, st.integers(1, 60))
def test_no_piece_ends_within_a_character(text: str, most: int) -> None:
    ids = encode(text)
    pieces = give([*ids, END], max_tokens=most)
    whole = bytes(text, "utf-8")[:most].decode("utf-8", "ignore")
    assert "".join(piece.text for piece in pieces) == whole
    drawn = [token for piece in pieces for token in piece.tokens]
    assert [token.id for token in drawn] == [*ids, END][:most]
    assert b"".join(t.bytes for t in drawn if t.id != END) == bytes(text, "utf-8")[:most]
    assert pieces[-1].finish == ("stop" if len(ids) < most else "length")


def test_what_is_no_character_does_not_hold_the_rest_back_for_ever() -> None:
    broken = encode("😀")[1]  # the second byte of four, again and again
    pieces = give([*encode("a"), *[broken] * 40], max_tokens=41)
    assert len(pieces) > 3


def test_draws_follow_the_probabilities_of_the_likeliest() -> None:
    logits = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.1]))
    ask = Ask(prompt=(5,), max_tokens=1, temperature=0.5, top_p=0.9, seed=3)
    answer = Answer(ask, SPELLING, frozenset())
    drawn = torch.tensor([answer.draw(logits) for _ in range(4000)])
    # Squares: .25 .0625 .0225 .01 of .345; the first two are .906 of them.
    shares = drawn.bincount(minlength=4) / len(drawn)
    assert shares[0] == pytest.approx(0.8, abs=0.03)
    assert shares[1] == pytest.approx(0.2, abs=0.03)
    assert shares[2:].sum() == 0


def test_the_likeliest_are_found_among_many() -> None:
    logits = torch.zeros(1000)
    ask = Ask(prompt=(5,), max_tokens=1, temperature=1, top_p=0.5, seed=1)
    answer = Answer(ask, SPELLING, frozenset())
    assert len({answer.draw(logits) for _ in range(3000)}) > 450
    cold = Answer(Ask(prompt=(5,), max_tokens=1, temperature=1e-9), SPELLING, frozenset())
    assert cold.draw(logits + torch.arange(1000)) == 999
