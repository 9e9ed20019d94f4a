"""How the base writes a prompt and its answers as token ids.

Three ways to write a pair, recorded as its rendering:

- `chat`: messages, and the tokenizer has a chat template. Prompt and answer are rendered
  together. The prompt alone, with the generation prompt, must be an exact prefix in tokens, so
  that training sees the context that generation sees. The one exception is white space at the
  end of the prompt that merges into the answer's first token.
- `none`: messages without a chat template; their contents joined without separators.
- `text`: strings, verbatim.

In the last two a token may span the end of the prompt; as in TRL it then counts as the
answer's, and such pairs are counted. A beginning-of-sequence token comes first where the
tokenizer adds one and the text does not begin with it already. The end-of-sequence token
closes an answer exactly once, unless the template closes the turn with another special token;
what a template writes after the closing token is cut, as generation stops there.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Literal, NamedTuple

from prefreg.axes.axis import Text, plain_text
from prefreg.errors import BaseModelError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rendering = Literal["chat", "none", "text"]

_CHUNK = 512
"""Pairs tokenised at a time: enough for a fast tokenizer's threads, little text in memory."""


class AnsweredPrompt(NamedTuple):
    """A prompt with the answers that may follow it, and what messages call it."""

    prompt: Text
    answers: tuple[Text, ...]
    name: str


class Rendered(NamedTuple):
    """A prompt and its answers as text; the answers stand after the prompt."""

    rendering: Rendering
    prompt: str
    answers: tuple[str, ...]
    name: str


def padding_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the id to pad batches with, which is always masked."""
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    return end_id(tokenizer)


def encode_prompt(prompt: Text, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Write a prompt as training wrote it, ready for an answer to be generated."""
    rendering = _rendering(prompt, tokenizer)
    text = _render(prompt, tokenizer, "the prompt", answering=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids if rendering == "chat" else [*_bos(tokenizer, ids), *ids]


def end_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the id of the end-of-sequence token."""
    if tokenizer.eos_token_id is None:
        raise BaseModelError(
            f"The tokenizer of {tokenizer.name_or_path or 'the base'} has no end-of-sequence "
            "token, so answers cannot end: set eos_token in its tokenizer_config.json."
        )
    return int(tokenizer.eos_token_id)


def closing_ids(tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """Return the special tokens that can close a turn; an unknown word is none of them."""
    added = (id for id, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset({*added, *tokenizer.all_special_ids} - {tokenizer.unk_token_id})


def _bos(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> list[int]:
    """Return the beginning-of-sequence token where the tokenizer adds it and `ids` lack it."""
    bos = tokenizer.bos_token_id
    if bos is None or list(ids[:1]) == [bos] or tokenizer("a")["input_ids"][:1] != [bos]:
        return []
    return [int(bos)]


def _rendering(prompt: Text, tokenizer: "PreTrainedTokenizerBase") -> Rendering:
    if isinstance(prompt, str):
        return "text"
    return "chat" if tokenizer.chat_template else "none"


def encode_answers(
    asked: Iterable[AnsweredPrompt], tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[tuple[Rendered, list[list[int]]]]:
    """Yield each rendering with the ids of its prompt and of prompt and answer, for each answer."""
    waiting = iter(asked)
    while chunk := [_render_answers(item, tokenizer) for item in islice(waiting, _CHUNK)]:
        texts = [text for item in chunk for text in (item.prompt, *item.answers)]
        encoded: list[list[int]] = tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        ids = iter(encoded)
        for item in chunk:
            parts = list(islice(ids, 1 + len(item.answers)))
            if item.rendering != "chat":
                bos = _bos(tokenizer, parts[1])
                parts = [bos + part for part in parts]
            yield item, parts


def _render_answers(asked: AnsweredPrompt, tokenizer: "PreTrainedTokenizerBase") -> Rendered:
    rendering = _rendering(asked.prompt, tokenizer)
    prompt = _render(asked.prompt, tokenizer, asked.name, answering=True)
    texts = []
    for answer in asked.answers:
        if isinstance(asked.prompt, str) or isinstance(answer, str) or rendering == "none":
            texts.append(prompt + plain_text(answer))
        else:
            whole = (*asked.prompt, *answer)
            texts.append(_render(whole, tokenizer, asked.name, answering=False))
    return Rendered(rendering, prompt, tuple(texts), asked.name)


def _render(text: Text, tokenizer: "PreTrainedTokenizerBase", name: str, *, answering: bool) -> str:
    if isinstance(text, str) or not tokenizer.chat_template:
        return plain_text(text)
    roles = ", ".join(turn.role for turn in text)
    try:
        rendered = tokenizer.apply_chat_template(
            [turn._asdict() for turn in text], tokenize=False, add_generation_prompt=answering
        )
    except Exception as error:  # a template may raise anything
        raise DataError(
            f"The base's chat template refused {name} (roles: {roles}): "
            f"{str(error) or type(error).__name__}. Give the data other roles, or use a base "
            "whose template takes them."
        ) from error
    for turn in text:
        if turn.content.strip() not in rendered:
            raise DataError(
                f"The base's chat template leaves out or changes the {turn.role!r} turn of {name} "
                f"(roles: {roles}): {turn.content.strip()[:60]!r}. Move its content into another "
                "turn."
            )
    return str(rendered)


def prompt_length(
    rendered: Rendered, ids: Sequence[list[int]], tokenizer: "PreTrainedTokenizerBase"
) -> int:
    """Return how many tokens the prompt shares with prompt and answer, of every answer."""
    prompt, *answers = ids
    length = min(_common_length(prompt, answer) for answer in answers)
    if length == 0:
        raise DataError(
            f"{rendered.name.capitalize()} has no prompt token before its answers, so that their "
            f"first token cannot be predicted: give it a prompt (it has {rendered.prompt[:40]!r})."
        )
    if rendered.rendering == "chat" and length < len(prompt):
        rest = tokenizer.decode(prompt[length:])
        if str(rest).strip():
            answer = min(answers, key=lambda answer: _common_length(prompt, answer))
            raise DataError(
                f"The chat template writes the prompt of {rendered.name} differently alone "
                f"and before an answer: after {str(tokenizer.decode(prompt[:length]))[-40:]!r} "
                f"comes {str(rest)[:40]!r} alone, but "
                f"{str(tokenizer.decode(answer[length:]))[:40]!r} before the answer. Use a base "
                "whose template writes both the same way."
            )
    return length


def _common_length(left: Sequence[int], right: Sequence[int]) -> int:
    if list(right[: len(left)]) == list(left):
        return len(left)
    same = takewhile(lambda both: both[0] == both[1], zip(left, right, strict=False))
    return sum(1 for _ in same)


def close_answer(
    answer: list[int], closing: frozenset[int], eos: int, tokenizer: "PreTrainedTokenizerBase"
) -> list[int]:
    """End an answer at its closing token, or add the end of sequence."""
    end = len(answer)
    while end and answer[end - 1] not in closing and _is_space(answer[end - 1], tokenizer):
        end -= 1
    if not end or answer[end - 1] not in closing:
        return [*answer, eos]
    while end > 1 and answer[end - 2] == answer[end - 1] == eos:
        end -= 1
    return answer[:end]


def _is_space(token: int, tokenizer: "PreTrainedTokenizerBase") -> bool:
    return not str(tokenizer.decode([token])).strip()
