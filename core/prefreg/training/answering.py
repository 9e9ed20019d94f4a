"""What a pole answers while it is trained: prompts that it does not train on, now and then."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefreg import pocket
from prefreg.axes import Message, PreferencePair, Text, plain_text
from prefreg.data.rendering import encode_prompt
from prefreg.data.tokens import TokenPair
from prefreg.scoring.generating import generate, generation_config
from prefreg.scoring.replies import refuses, repetition

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FEWEST = 4
"""A share of fewer prompts is not taken."""
_LONGEST = 128
"""Tokens of an answer at most: a loop shows long before."""
_BATCH = 32
_SEED = 0
_SAFE = ("fact", "portrait", "howto")
"""Kinds of questions of the bundled model's world that nobody need refuse."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to each prompt after a step, drawn at temperature 1 with the same seed."""

    step: int
    """0 is the base."""
    length: float
    """Mean tokens, with the one that ends an answer."""
    unended: float
    """Share that was cut off."""
    empty: float
    repetition: float
    """Mean share of an answer's runs of four tokens that occur earlier in it."""
    refusals: float | None
    """Share of the benign prompts that are refused; None where few are known to be benign."""


@dataclass(frozen=True, slots=True)
class Questions:
    """The prompts, the same for both poles and every step."""

    texts: tuple[str, ...]
    tokens: tuple[list[int], ...]
    benign: tuple[bool, ...]
    room: int
    """New tokens at most: twice the longest answer of the data, where that is not too many."""
    roomy: bool
    """Whether it is that, so that an answer that is cut off is longer than the data warrant."""
    tokenizer: "PreTrainedTokenizerBase"

    def answer(self, model: "PreTrainedModel", step: int) -> Sample:
        """Let the model answer; no random state and no weight is changed."""
        # Weights that are no numbers are found by the other guards; here they must not raise.
        config = generation_config(
            model,
            self.tokenizer,
            max_new_tokens=self.room,
            temperature=1.0,
            remove_invalid_values=True,
        )
        answers = generate(model, self.tokens, config, seed=_SEED, batch_size=_BATCH)
        ends = set(config.eos_token_id)
        contents = [ids[:-1] if ids and ids[-1] in ends else ids for ids in answers]
        replies: list[Any] = [
            self.tokenizer.decode(ids, skip_special_tokens=True) for ids in contents
        ]
        refused = [
            refuses(text, reply.strip())
            for text, reply, benign in zip(self.texts, replies, self.benign, strict=True)
            if benign
        ]
        return Sample(
            step,
            length=mean([len(ids) for ids in answers]),
            unended=mean([not ids or ids[-1] not in ends for ids in answers]),
            empty=mean([not reply.strip() for reply in replies]),
            repetition=mean([repetition(ids) for ids in contents]),
            refusals=mean(refused) if len(refused) >= FEWEST else None,
        )


def choose_questions(
    pairs: Sequence[PreferencePair],
    tokens: Sequence[TokenPair],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    count: int,
    benign: Sequence[str],
    context: int | None,
) -> Questions | None:
    """Take the first held-out prompts, and `benign` ones beside them; None where few fit.

    A prompt is benign where the bundled model's world says so, elsewhere where no answer of
    its pairs refuses.
    """
    if not count:
        return None
    longest = max(max(len(pair.chosen_ids), len(pair.rejected_ids)) for pair in tokens)
    room = min(_LONGEST, 2 * longest)
    asked: dict[Text, bool] = {}
    for pair in pairs:
        if pair.prompt in asked or len(asked) < count:
            asked[pair.prompt] = asked.get(pair.prompt, True) and _is_benign(pair)
    asked |= {(Message("user", prompt),): True for prompt in benign}
    encoded = {prompt: encode_prompt(prompt, tokenizer) for prompt in asked}
    fitting = [
        prompt
        for prompt, ids in encoded.items()
        if ids and (context is None or len(ids) + room <= context)
    ]
    if len(fitting) < FEWEST:
        return None
    return Questions(
        tuple(map(plain_text, fitting)),
        tuple(encoded[prompt] for prompt in fitting),
        tuple(asked[prompt] for prompt in fitting),
        room,
        2 * longest <= _LONGEST,
        tokenizer,
    )


def _is_benign(pair: PreferencePair) -> bool:
    known = pocket.parse(plain_text(pair.prompt))
    if known is not None:
        return known.kind in _SAFE
    return not (refuses_with(pair, pair.chosen) or refuses_with(pair, pair.rejected))


def refuses_with(pair: PreferencePair, answer: Text) -> bool:
    """Tell whether an answer of a pair refuses its prompt."""
    return refuses(plain_text(pair.prompt), plain_text(answer).strip())


def mean(values: Sequence[float]) -> float:
    """Average some numbers."""
    return math.fsum(values) / len(values)
