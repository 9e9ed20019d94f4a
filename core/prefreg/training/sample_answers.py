"""What becomes of a pole's answers while it is trained, and whether they fell apart."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import eq
from statistics import fmean
from types import MappingProxyType
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg.axes.answer_texts import repetition
from prefreg.axes.axis import (
    Message,
    PreferencePair,
    Text,
    merge_options,
    plain_text,
)
from prefreg.checkpoints.bundled import recognise
from prefreg.data.rendering import encode_prompt
from prefreg.data.tokens import TokenPair
from prefreg.models.generation import generate, generation_config, loops, refuses
from prefreg.models.ranks import current
from prefreg.training.guards import Thresholds

FEWEST = 4
"""A share of fewer prompts is not taken."""
LONGEST = 128
"""Tokens of an answer at most: a loop shows long before."""
_BATCH = 32
_SEED = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to each prompt after a step: on the way drawn at temperature 1, by one seed."""

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
    unchanged: float | None = None
    """Share of the answers that are the base's, token for token; None of the base itself."""
    looping: float = 0.0
    """Share of the answers that say the same again and again."""


@dataclass(frozen=True, slots=True)
class SampledPrompts:
    """The prompts, the same for both poles and every step."""

    texts: tuple[str, ...]
    tokens: tuple[list[int], ...]
    benign: tuple[bool, ...]
    room: int
    """New tokens at most: twice the longest answer of the data, where that is not too many."""
    roomy: bool
    """Whether it is that, so that an answer that is cut off is longer than the data warrant."""
    tokenizer: PreTrainedTokenizerBase

    def answer(
        self,
        model: PreTrainedModel,
        step: int,
        before: "Opening | None" = None,
        temperature: float = 1.0,
    ) -> tuple[Sample, list[list[int]]]:
        """Let the model answer; no random state and no weight is changed.

        Return the figures, beside those of the base where they are given, and the answers.
        """
        # Weights that are no numbers are found by the other guards; here they must not raise.
        config = generation_config(
            model,
            self.tokenizer,
            max_new_tokens=self.room,
            temperature=temperature,
            remove_invalid_values=True,
        )
        answers = current().agreed(
            lambda: generate(model, self.tokens, config, seed=_SEED, batch_size=_BATCH)
        )
        ends = set(config.eos_token_id)
        contents = [ids[:-1] if ids and ids[-1] in ends else ids for ids in answers]
        replies = [self.read(ids) for ids in contents]
        refused = [
            refuses(text, reply)
            for text, reply, benign in zip(self.texts, replies, self.benign, strict=True)
            if benign
        ]
        found = Sample(
            step,
            length=fmean([len(ids) for ids in answers]),
            unended=fmean([not ids or ids[-1] not in ends for ids in answers]),
            empty=fmean([not reply for reply in replies]),
            repetition=fmean([repetition(ids) for ids in contents]),
            refusals=fmean(refused) if len(refused) >= FEWEST else None,
            unchanged=None if before is None else fmean(map(eq, answers, before.answers)),
            looping=fmean([loops(ids) for ids in contents]),
        )
        return found, answers

    def read(self, ids: list[int]) -> str:
        """Return an answer as text."""
        text: Any = self.tokenizer.decode(ids, skip_special_tokens=True)
        return str(text).strip()


@dataclass(frozen=True, slots=True)
class Opening:
    """What the poles are asked on the way, and what the base answers."""

    prompts: SampledPrompts
    base: Sample
    answers: list[list[int]]

    @classmethod
    def of(cls, prompts: SampledPrompts, base: PreTrainedModel) -> "Opening":
        """Let the base answer."""
        return cls(prompts, *prompts.answer(base, 0))


def choose_prompts(
    pairs: Sequence[PreferencePair],
    tokens: Sequence[TokenPair],
    tokenizer: PreTrainedTokenizerBase,
    *,
    count: int,
    benign: Sequence[str],
    context: int | None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> SampledPrompts | None:
    """Take the first held-out prompts, and `benign` ones beside them; None where few fit.

    A prompt is benign where a known world says so, elsewhere where no answer of its pairs
    refuses. Of `benign` prompts the chat template is told `options`, of the others what their
    pairs tell it.
    """
    if not count:
        return None
    longest = max(max(len(pair.chosen_ids), len(pair.rejected_ids)) for pair in tokens)
    room = min(LONGEST, 2 * longest)
    asked: dict[Text, bool] = {}
    for pair in pairs:
        if pair.prompt in asked or len(asked) < count:
            asked[pair.prompt] = asked.get(pair.prompt, True) and _is_benign(pair)
    asked |= {(Message("user", prompt),): True for prompt in benign}
    told = {prompt: ("", merge_options(options, "")) for prompt in asked}
    told |= {pair.prompt: pair.told for pair in pairs}
    encoded = {prompt: encode_prompt(prompt, tokenizer, told[prompt]) for prompt in asked}
    fitting = [
        prompt
        for prompt, ids in encoded.items()
        if ids and (context is None or len(ids) + room <= context)
    ]
    if len(fitting) < FEWEST:
        return None
    return SampledPrompts(
        tuple(map(plain_text, fitting)),
        tuple(encoded[prompt] for prompt in fitting),
        tuple(asked[prompt] for prompt in fitting),
        room,
        2 * longest <= LONGEST,
        tokenizer,
    )


def _is_benign(pair: PreferencePair) -> bool:
    found = recognise(plain_text(pair.prompt))
    if found is not None:
        return bool(found[1].safe)
    return not (refuses_with(pair, pair.chosen) or refuses_with(pair, pair.rejected))


def refuses_with(pair: PreferencePair, answer: Text) -> bool:
    """Tell whether an answer of a pair refuses its prompt."""
    return refuses(plain_text(pair.prompt), plain_text(answer).strip())


_SHARE = 0.05
"""Of the time of training, at most; but the end of a pole is always looked at."""
_TOKENS_A_STEP = 64
"""A step of generation costs as much as a forward pass over this many tokens in large batches."""
_OFTEN = 10


@dataclass(frozen=True, slots=True)
class DataAnswers:
    """What the data teach a pole, as far as its answers may follow it."""

    lengths: tuple[float, float]
    """Mean tokens of the shorter and of the longer kind of answers, chosen and rejected."""
    refusing: bool
    """Whether the chosen answers refuse more often than the rejected ones."""


@dataclass(frozen=True, slots=True)
class AnswerWarning:
    """What is strange about a pole's answers, and may yet be what its data teach."""

    step: int
    """When it was first seen."""
    figure: str
    reason: str


class SampledAnswers:
    """Asks a pole now and then, and compares its answers with the base's and with the data."""

    def __init__(
        self, opening: Opening, data: DataAnswers, steps: Iterable[int], limits: Thresholds
    ) -> None:
        """Ask after each of `steps`, of which the greatest is the last of training."""
        self.samples = [opening.base]
        self.warnings: list[AnswerWarning] = []
        self._opening = opening
        self._data = data
        self._steps = set(steps)
        self._limits = limits

    def is_due(self, step: int) -> bool:
        """Tell whether to ask after a step."""
        return step in self._steps

    def check(self, model: PreTrainedModel, step: int) -> str | None:
        """Let the pole answer; return in which way its answers fell apart, if they did."""
        try:
            found, _ = self._opening.prompts.answer(model, step, self._opening)
        except torch.OutOfMemoryError:
            # What training needs itself is more important.
            self._steps.clear()
            self._warn(step, {"memory": "there is no memory to let it answer"})
            return None
        base, self.samples = self.samples[0], [*self.samples, found]
        self._warn(step, find_warnings(found, base, self._data, self._limits))
        if step == max(self._steps) and found.unchanged == 1:
            count = len(self._opening.answers)
            self._warn(step, {"unchanged": f"all of its {count} answers are still the base's"})
        return find_collapse(found, base, self._opening.prompts, self._data, self._limits)

    def to_json(self) -> dict[str, Any]:
        """Return what was found in a form that JSON can hold."""
        return {
            "answers": [asdict(sample) for sample in self.samples],
            "warnings": [asdict(warned) for warned in self.warnings],
        }

    def load(self, kept: dict[str, Any]) -> None:
        """Take up what was found before."""
        self.samples = [Sample(**sample) for sample in kept["answers"]]
        self.warnings = [AnswerWarning(**warned) for warned in kept["warnings"]]

    def _warn(self, step: int, reasons: dict[str, str]) -> None:
        known = {warned.figure for warned in self.warnings}
        self.warnings += [
            AnswerWarning(step, figure, reason)
            for figure, reason in reasons.items()
            if figure not in known
        ]


def measure_data(pairs: Sequence[PreferencePair], tokens: Sequence[TokenPair]) -> DataAnswers:
    """Say what the pairs of a pole teach it."""
    chosen = fmean([len(pair.chosen_ids) for pair in tokens])
    rejected = fmean([len(pair.rejected_ids) for pair in tokens])
    taught = [refuses_with(pair, pair.chosen) - refuses_with(pair, pair.rejected) for pair in pairs]
    return DataAnswers((min(chosen, rejected), max(chosen, rejected)), sum(taught) > 0)


def choose_steps(prompts: SampledPrompts, work: float, *, interval: int, steps: int) -> set[int]:
    """Return after which steps to ask, so that it takes little of the time, and the last one.

    As with the other checks, this follows from counts of tokens (`work` is what one step of
    training is worth), and lies on steps that are checked anyway.
    """
    cost = max(len(prompts.tokens), _TOKENS_A_STEP) * prompts.room / 2
    cost += sum(map(len, prompts.tokens))
    count = min(_OFTEN, int(_SHARE * work * steps / cost))
    checks = [round(steps * part / count / interval) * interval for part in range(1, count)]
    return {step for step in checks if 0 < step < steps} | {steps}


def find_collapse(
    found: Sample, base: Sample, prompts: SampledPrompts, data: DataAnswers, limits: Thresholds
) -> str | None:
    """Say in which way the answers fell apart, which no data ask for."""
    shares = [
        ("repetition", "of the runs of tokens in its answers repeat", limits.repetition_rise),
        ("looping", "of its answers say the same again and again", limits.loop_rise),
        ("empty", "of its answers are empty", limits.empty_rise),
    ]
    if prompts.roomy:
        shares.append(("unended", "of its answers do not end", limits.unended_rise))
    if not data.refusing:
        shares.append(("refusals", "of the benign prompts are refused", limits.refusal_rise))
    return next(iter(_risen(found, base, shares)), None)


def find_warnings(
    found: Sample, base: Sample, data: DataAnswers, limits: Thresholds
) -> dict[str, str]:
    """Say by its figure what is strange about the answers, and may yet be what the data teach."""
    warnings = {}
    short, long = min(base.length, data.lengths[0]), max(base.length, data.lengths[1])
    if not short / limits.length_factor <= found.length <= long * limits.length_factor:
        warnings["length"] = (
            f"its answers have {found.length:.1f} tokens, the base's {base.length:.1f} and those "
            f"of the data {data.lengths[0]:.1f} and {data.lengths[1]:.1f}"
        )
    share = [("refusals", "of the benign prompts are refused", limits.refusal_rise)]
    if data.refusing and (risen := _risen(found, base, share)):
        warnings["refusals"] = risen[0]
    return warnings


def _risen(found: Sample, base: Sample, shares: Sequence[tuple[str, str, float]]) -> list[str]:
    said = []
    for name, what, limit in shares:
        now, before = getattr(found, name), getattr(base, name)
        if now is not None and before is not None and now - before > limit:
            said.append(f"{now:.0%} {what}, {before:.0%} with the base (limit {limit:+.0%})")
    return said
