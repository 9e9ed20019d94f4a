"""Sources that ask the base: under two prompts, for the best of many answers, for one side."""

import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from prefreg.axes.answer_texts import repetition, word_count
from prefreg.axes.axis import (
    AskedBase,
    BaseAnswer,
    Message,
    Metric,
    PreferencePair,
    Row,
    Source,
    SourceRequest,
    SourceRows,
    Text,
    is_blank,
    plain_text,
    read_message,
    read_told,
)
from prefreg.axes.expressions import BadExpressionError, Expression, parse_expression
from prefreg.axes.isolation import score
from prefreg.axes.row_sources import PLACE, read_rows
from prefreg.errors import AxisError, DataError
from prefreg.files import open_regular

EVERYDAY = "everyday"
"""What the list of prompts is called that comes with prefreg."""
COUNT = 400
FEWEST = 10
"""With fewer pairs nothing could be held out."""
LOOPING = 0.5
"""An answer of which a larger share of the runs of four words repeats teaches nothing but that."""
PAIR_TEXTS = ("prompt", "chosen", "rejected")

Prefix = str | tuple[Message, ...]
"""A system prompt, or the turns that stand before a prompt."""
Side = Literal["chosen", "rejected"]
Rewrite = Callable[[str, str], str]

_LEFT_OUT = {
    "equal": "with equal answers",
    "empty": "with an empty answer",
    "cut": "whose answer has no whole sentence within max_new_tokens",
    "looping": "of which an answer repeats itself",
    "unjudged": "that the metric does not judge",
    "tied": "whose answers lie too close together",
    "refused": "that 'keep' leaves out",
}


@dataclass(frozen=True, slots=True)
class _Question:
    """A prompt, and what is known of it."""

    prompt: Text
    told: tuple[str, str]
    row: Row
    """Its further columns, as a pair's row has them."""
    given: Text | None = None
    """The answer that the data have."""

    def to_row(self, chosen: Text, rejected: Text) -> dict[str, Any]:
        texts = {"prompt": self.prompt, "chosen": chosen, "rejected": rejected}
        written: dict[str, Any] = {
            name: text if isinstance(text, str) else [turn.to_json() for turn in text]
            for name, text in texts.items()
        }
        return {**self.row, **written}


@dataclass(slots=True)
class _Tally:
    """What became of the pairs."""

    made: int = 0
    kept: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    words: list[tuple[int, int]] = field(default_factory=list)

    def leave_out(self, reason: str, *texts: str) -> None:
        self.made += 1
        self.left_out[reason] += 1
        self._show(reason, texts)

    def keep(self, *texts: str) -> None:
        self.made += 1
        self.kept += 1
        self.words.append((word_count(texts[1]), word_count(texts[2])))
        self._show("kept", texts)

    def _show(self, reason: str, texts: tuple[str, ...]) -> None:
        shown = self.examples.setdefault(reason, [])
        if len(shown) < 2:
            prompt, chosen, rejected = texts
            shown.append((prompt, chosen, rejected))

    def reasons(self) -> str:
        return ", ".join(f"{count} {_LEFT_OUT[why]}" for why, count in self.left_out.most_common())

    def describe(self, asked: int, prompts: int, *, filtered: bool) -> str:
        lines = [f"Kept {self.kept} of {self.made} pairs"]
        if self.words:
            means = [fmean(column) for column in zip(*self.words, strict=True)]
            lines[0] += f": {means[0]:.0f} words chosen, {means[1]:.0f} rejected on average"
        lines[0] += f". Left out: {self.reasons()}." if self.left_out else "."
        if filtered and self.kept and not self.left_out["refused"] + self.left_out["unjudged"]:
            lines[0] += " 'keep' lets every pair through."
        if asked < prompts:
            lines[0] += f" This is a preview, of {asked} of {prompts} prompts."
        for prompt, chosen, rejected in self.examples.get("kept", ()):
            lines += [f"  {_brief(prompt)}", f"    + {_brief(chosen)}", f"    − {_brief(rejected)}"]
        return "\n".join(lines)

    def explain(self) -> str:
        """Say in one line why there are too few, with an example."""
        why = self.left_out.most_common(1)
        if not why:
            return f"there are only {self.made} pairs, and at least {FEWEST} are needed"
        _, chosen, rejected = self.examples[why[0][0]][0]
        return (
            f"of {self.made} pairs only {self.kept} are left, and at least {FEWEST} are needed: "
            f"{self.reasons()}; for example {_brief(chosen, 50)!r} beside {_brief(rejected, 50)!r}"
        )


def _brief(text: str, longest: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else line[:longest].rstrip() + "…"


@dataclass(frozen=True, kw_only=True)
class _AskingSource(ABC):
    """A source of pairs that are made of the base's own answers.

    The answers are drawn with `seed`, not with that of a run, so that runs of other seeds have
    the same pairs; they are kept in the cache.

    Raises:
        AxisError: `keep` is no expression, or a number is out of measure.
    """

    keep: str | None = None
    """An expression of `prompt`, `chosen` and `rejected`; pairs of which it is false are left
    out."""
    metric: Metric | None = None
    """What `metric()` means in `keep`."""
    count: int = COUNT
    """At most so many prompts are asked."""
    max_new_tokens: int = 128
    """Of each answer. One that is longer is cut behind its last whole sentence."""
    temperature: float = 0.3
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("count", 1), ("max_new_tokens", 1), ("temperature", 0), ("seed", 0)):
            if not low <= getattr(self, name) < math.inf:
                raise AxisError(f"{name} is {getattr(self, name)!r}, and must be {low} or more.")
        if not 0 < self.top_p <= 1:
            raise AxisError(f"top_p is {self.top_p!r}, and must be above 0 and at most 1.")
        self._filter()

    def __call__(self, request: SourceRequest) -> SourceRows:
        """Ask the base for the pairs, as they are read."""
        base = request.base
        if base is None:
            raise DataError(
                "it asks the base model, and here there is none: `prefreg add-axis NAME --base "
                "BASE --dry-run` shows what it gives"
            )
        questions, origin, revision = self._questions(request)
        rows = self._rows(base, questions, origin, request.limit)
        return SourceRows(rows, f"answers of {base.name} to {origin}", revision)

    @abstractmethod
    def _questions(self, request: SourceRequest) -> tuple[list[_Question], str, str | None]:
        """Read the prompts; say where from, and at which revision."""

    @abstractmethod
    def _prompts(self, question: _Question, base: AskedBase) -> list[Text]:
        """Return what is asked for a question."""

    @abstractmethod
    def _pairs(
        self, question: _Question, answers: Sequence[BaseAnswer], tally: _Tally
    ) -> Iterator[tuple[Text, Text]]:
        """Make pairs of chosen and rejected of the answers."""

    @abstractmethod
    def _manner(self) -> str:
        """Say how each prompt is answered."""

    def _filter(self) -> Expression | None:
        if self.keep is None:
            return None
        asks = self.metric is not None
        try:
            return parse_expression(self.keep, PAIR_TEXTS, "truth", metric=asks)
        except BadExpressionError as error:
            raise AxisError(f"'keep' is {self.keep!r:.80}: {error}.") from error

    def _rows(
        self, base: AskedBase, questions: list[_Question], origin: str, limit: int | None
    ) -> Iterator[Row]:
        groups = [self._prompts(question, base) for question in questions]
        base.tell(
            f"Asking {base.name}: {len(questions)} prompts of {origin}, {self._manner()}; "
            f"{sum(map(len, groups))} answers of at most {self.max_new_tokens} tokens."
        )
        found = base.answers(
            groups,
            told=[question.told for question in questions],
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
        )
        tally, keep, asked = _Tally(), self._filter(), 0
        for question, answers in zip(questions, found, strict=False):
            asked += 1
            for chosen, rejected in self._pairs(question, answers, tally):
                texts = [plain_text(text) for text in (question.prompt, chosen, rejected)]
                if reason := self._refuses(keep, texts):
                    tally.leave_out(reason, *texts)
                elif limit is None or tally.kept < limit:
                    tally.keep(*texts)
                    yield question.to_row(chosen, rejected)
            if tally.kept == limit:
                break
        base.tell(tally.describe(asked, len(questions), filtered=keep is not None))
        if tally.kept < FEWEST and tally.kept != limit and asked == len(questions):
            raise DataError(tally.explain())

    def _refuses(self, keep: Expression | None, texts: Sequence[str]) -> str | None:
        """Say why a pair is left out."""
        if texts[1] == texts[2]:
            return "equal"
        if max(repetition(text.split()) for text in texts[1:]) > LOOPING:
            return "looping"
        if keep is None:
            return None
        verdict = keep(dict(zip(PAIR_TEXTS, texts, strict=True)), self._scored(self.metric))
        return {None: "unjudged", 0.0: "refused"}.get(verdict)

    @staticmethod
    def _scored(metric: Metric | None) -> Metric | None:
        if metric is None:
            return None
        return lambda prompt, answer: score(metric, prompt, answer, "the metric")


@dataclass(frozen=True, kw_only=True)
class _PromptSource(_AskingSource):
    """A source that asks prompts, of which nothing else need be known."""

    prompts: Source | Sequence[str] | str | Path = EVERYDAY
    """A file with a column `prompt`, or a `.txt` of a prompt a line; texts; a source of rows with
    a `prompt`; or the list that comes with prefreg."""

    def _questions(self, request: SourceRequest) -> tuple[list[_Question], str, str | None]:
        return read_questions(self.prompts, request, self.count)


@dataclass(frozen=True, kw_only=True)
class ContrastSource(_PromptSource):
    """The base's answers under one prefix against those under another; pairs are without both.

    Contrastive distillation (Yang et al., RLCD, arXiv 2307.12950): what the two prefixes make the
    base say is what a vector learns to make it say without them.
    """

    positive: Prefix | Sequence[Mapping[str, Any]]
    """A system prompt, or turns that stand before the prompt; its answers are chosen."""
    negative: Prefix | Sequence[Mapping[str, Any]]
    n: int = 1
    """Pairs of each prompt."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_draws(self.n, 1, self.temperature)
        if read_prefix(self.positive) == read_prefix(self.negative):
            raise AxisError("The positive and the negative prefix are the same.")

    def _prompts(self, question: _Question, base: AskedBase) -> list[Text]:
        both = (read_prefix(self.positive), read_prefix(self.negative))
        return [
            with_prefix(prefix, question.prompt, base) for prefix in both for _ in range(self.n)
        ]

    def _pairs(
        self, question: _Question, answers: Sequence[BaseAnswer], tally: _Tally
    ) -> Iterator[tuple[Text, Text]]:
        for chosen, rejected in zip(answers[: self.n], answers[self.n :], strict=True):
            texts = whole(chosen), whole(rejected)
            if all(texts):
                yield _as(question.prompt, texts[0]), _as(question.prompt, texts[1])
            else:
                _leave_blank(tally, question, (chosen, rejected))

    def _manner(self) -> str:
        times = "" if self.n == 1 else f"{self.n} times "
        return f"each answered {times}under the positive and under the negative prefix"


@dataclass(frozen=True, kw_only=True)
class RankedSource(_PromptSource):
    """The best of the base's answers to a prompt, by a metric, against the worst."""

    by: Metric
    """Ranks the answers: `(prompt, answer) -> float`, larger along the axis."""
    n: int = 8
    """Answers to each prompt."""
    system: Sequence[str] = ()
    """System prompts, which take turns with the answers."""
    min_gap: float = 0.0
    """Best and worst that lie less apart are left out."""
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_draws(self.n, 2, self.temperature)
        if not 0 <= self.min_gap < math.inf:
            raise AxisError(f"min_gap is {self.min_gap!r}, and must be 0 or more.")

    def _prompts(self, question: _Question, base: AskedBase) -> list[Text]:
        if not self.system:
            return [question.prompt] * self.n
        texts = [with_prefix(text, question.prompt, base) for text in self.system]
        return [texts[place % len(texts)] for place in range(self.n)]

    def _pairs(
        self, question: _Question, answers: Sequence[BaseAnswer], tally: _Tally
    ) -> Iterator[tuple[Text, Text]]:
        asked = plain_text(question.prompt)
        texts = list(dict.fromkeys(filter(None, map(whole, answers))))
        scored = [
            (value, -place, text)
            for place, text in enumerate(texts)
            if (value := score(self.by, asked, text, "the metric")) is not None
        ]
        if len(texts) < 2:
            _leave_blank(tally, question, answers[:2])
        elif len(scored) < 2:
            tally.leave_out("unjudged", asked, *texts[:2])
        else:
            best, worst = max(scored), min(scored)
            if best[0] - worst[0] > 0 and best[0] - worst[0] >= self.min_gap:
                yield _as(question.prompt, best[2]), _as(question.prompt, worst[2])
            else:
                tally.leave_out("tied", asked, best[2], worst[2])

    def _manner(self) -> str:
        under = f" under {len(self.system)} system prompts in turn" if self.system else ""
        return f"each answered {self.n} times{under}, the best against the worst"


@dataclass(frozen=True, kw_only=True)
class OnPolicySource(_AskingSource):
    """Rows of which one answer stays, and the other becomes the base's own."""

    source: Source
    """Its rows have a `prompt` and the answer that stays."""
    side: Side
    """Which answer is the base's own."""
    system: str | None = None
    """A system prompt under which the base answers; the pair is without it."""
    verbatim: bool = False
    """Take strings as they stand, instead of as turns of a user and the assistant."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side not in ("chosen", "rejected"):
            raise AxisError(f"The side is 'chosen' or 'rejected', not {self.side!r:.40}.")

    @property
    def other(self) -> Side:
        """Return which answer stays."""
        return "rejected" if self.side == "chosen" else "chosen"

    def _questions(self, request: SourceRequest) -> tuple[list[_Question], str, str | None]:
        found = self.source(replace(request, limit=self.count))
        rows = found.rows if isinstance(found, SourceRows) else found
        questions = [self._read(number, row) for number, row in enumerate(rows, start=1)]
        origin = found.origin if isinstance(found, SourceRows) else "rows"
        return questions, origin, found.revision if isinstance(found, SourceRows) else None

    def _read(self, number: int, row: Row) -> _Question:
        place = row.get(PLACE, f"row {number}")
        for name in ("prompt", self.other):
            if row.get(name) is None:
                raise DataError(f"{place}: column {name!r} is missing")
        texts: dict[str, Any] = {"prompt": row["prompt"], "chosen": row[self.other]}
        if not self.verbatim:
            roles = {"prompt": "user", "chosen": "assistant"}
            texts = {
                name: [{"role": roles[name], "content": text}] if isinstance(text, str) else text
                for name, text in texts.items()
            }
        try:
            pair = PreferencePair.from_row({**row, **texts, "rejected": texts["chosen"]})
        except DataError as error:
            raise DataError(f"{place}: {error}") from error
        return _Question(pair.prompt, pair.told, _kept(row, place), pair.chosen)

    def _prompts(self, question: _Question, base: AskedBase) -> list[Text]:
        if self.system is None:
            return [question.prompt]
        return [with_prefix(self.system, question.prompt, base)]

    def _pairs(
        self, question: _Question, answers: Sequence[BaseAnswer], tally: _Tally
    ) -> Iterator[tuple[Text, Text]]:
        assert question.given is not None
        text = whole(answers[0])
        given = plain_text(question.given)
        if not text:
            both = (given, answers[0].text)
            reason = "cut" if answers[0].text.strip() else "empty"
            tally.leave_out(reason, plain_text(question.prompt), *both)
            return
        own = _as(question.prompt, text)
        yield (own, question.given) if self.side == "chosen" else (question.given, own)

    def _manner(self) -> str:
        return f"each answered once for the {self.side} side"


@dataclass(frozen=True, kw_only=True)
class RewrittenSource(_PromptSource):
    """The base's own answer to each prompt, rewritten by one rule and by another.

    For what the base does not say whatever it is told, but what can be said of its answers.
    """

    chosen: Rewrite
    """Make the chosen answer of a prompt and the base's own, `(prompt, answer) -> text`."""
    rejected: Rewrite

    def _prompts(self, question: _Question, base: AskedBase) -> list[Text]:
        return [question.prompt]

    def _pairs(
        self, question: _Question, answers: Sequence[BaseAnswer], tally: _Tally
    ) -> Iterator[tuple[Text, Text]]:
        own = whole(answers[0])
        if not own:
            _leave_blank(tally, question, (answers[0], answers[0]))
            return
        prompt = plain_text(question.prompt)
        yield (
            _as(question.prompt, self.chosen(prompt, own)),
            _as(question.prompt, self.rejected(prompt, own)),
        )

    def _manner(self) -> str:
        return "each answered once, and the answer rewritten for either side"


def read_prefix(value: Prefix | Sequence[Mapping[str, Any]]) -> Prefix:
    """Read a system prompt, or the turns of a prefix.

    Raises:
        AxisError: It is neither, or empty.
    """
    try:
        found: Prefix = (
            value
            if isinstance(value, str)
            else tuple(
                turn if isinstance(turn, Message) else read_message(turn, "prefix")
                for turn in value
            )
        )
    except (DataError, TypeError) as error:
        raise AxisError(f"A prefix is a text or a list of messages: {error}.") from error
    if not found or is_blank(found):
        raise AxisError("A prefix is a text or a list of messages, and not empty.")
    return found


def with_prefix(prefix: Prefix, prompt: Text, base: AskedBase) -> Text:
    """Write a prefix before a prompt, beside a system prompt that it has itself.

    Raises:
        DataError: The base has no chat template, which a system prompt needs.
    """
    if isinstance(prompt, str):
        return plain_text(prefix) + prompt
    if not isinstance(prefix, str):
        return (*prefix, *prompt)
    if not base.has_template:
        raise DataError(
            f"{base.name} has no chat template, which a system prompt needs: write the prefix as "
            "a list of messages, whose contents then stand before the prompt as they are"
        )
    if prompt[0].role == "system":
        prefix, prompt = f"{prefix}\n\n{prompt[0].content}", prompt[1:]
    return (Message("system", prefix), *prompt)


_END = re.compile(r"(?<!\d)[.!?…][\"'\u201d\u2019)*_]*(?=\s|$)|\n")


def whole(answer: BaseAnswer) -> str:
    """Return an answer; of one that did not come to an end, its whole sentences or lines."""
    if answer.ended:
        return answer.text.strip()
    ends = [found.end() for found in _END.finditer(answer.text)]
    return answer.text[: ends[-1]].strip() if ends else ""


def everyday_prompts() -> list[str]:
    """Return the prompts that come with prefreg."""
    return Path(__file__).with_name("everyday.txt").read_text("utf-8").splitlines()


def read_questions(
    prompts: Source | Sequence[str] | str | Path, request: SourceRequest, count: int
) -> tuple[list[_Question], str, str | None]:
    """Read the first distinct prompts; say where they come from, and at which revision.

    Raises:
        DataError: There are none, or one is malformed.
    """
    revision = None
    if prompts == EVERYDAY:
        origin, rows = f"the list {EVERYDAY!r}", _texts(everyday_prompts(), EVERYDAY)
    elif isinstance(prompts, str | Path):
        path = Path(prompts)
        origin, rows = path.name, _file(path)
    elif callable(prompts):
        found = prompts(replace(request, limit=None))
        origin = found.origin if isinstance(found, SourceRows) else "a source"
        revision = found.revision if isinstance(found, SourceRows) else None
        rows = iter(found.rows if isinstance(found, SourceRows) else found)
    else:
        origin, rows = "a list", _texts(prompts, "the prompts")
    distinct: dict[tuple[Text, tuple[str, str]], _Question] = {}
    for number, row in enumerate(rows, start=1):
        place = row.get(PLACE, f"row {number} of {origin}")
        try:
            prompt = _read_prompt(row)
            question = _Question(prompt, read_told(row, prompt), _kept(row, place))
        except DataError as error:
            raise DataError(f"{place}: {error}") from error
        distinct.setdefault((prompt, question.told), question)
        if len(distinct) == count:
            break
    if not distinct:
        raise DataError(f"{origin} has no prompt")
    return list(distinct.values()), origin, revision


def _texts(prompts: Iterable[str], origin: str) -> Iterator[Row]:
    for number, text in enumerate(prompts, start=1):
        if not isinstance(text, str) or text.strip():
            yield {"prompt": text, PLACE: f"{origin}:{number}"}


def _file(path: Path) -> Iterator[Row]:
    if path.suffix == ".txt":
        try:
            with open_regular(path) as stream:
                lines = stream.read().decode("utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from error
        yield from _texts(lines, path.name)
        return
    for number, row in read_rows(path):
        yield {**row, PLACE: f"{path.name}:{number}"}


def _read_prompt(row: Row) -> tuple[Message, ...]:
    value = row.get("prompt")
    if value is None:
        raise DataError(f"column 'prompt' is missing (found: {', '.join(map(str, row)) or 'none'})")
    turns = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if not isinstance(turns, Sequence) or not turns:
        raise DataError("column 'prompt' is neither a string nor a list of messages")
    prompt = tuple(read_message(turn, "prompt") for turn in turns)
    if is_blank(prompt):
        raise DataError("column 'prompt' is empty")
    if prompt[-1].role == "assistant":
        raise DataError("column 'prompt' ends with a turn of 'assistant', which is no question")
    return prompt


def _kept(row: Row, place: str) -> dict[str, Any]:
    """Return the columns that a pair's row has beside its texts."""
    names = ("group", "tools", "chat_template_kwargs")
    return {**{name: row[name] for name in names if row.get(name) is not None}, PLACE: place}


def _as(prompt: Text, answer: str) -> Text:
    return answer if isinstance(prompt, str) else (Message("assistant", answer),)


def _check_draws(n: int, least: int, temperature: float) -> None:
    if n < least:
        raise AxisError(f"n is {n!r}, and must be {least} or more.")
    if n > 1 and temperature == 0:
        raise AxisError(f"n is {n!r}, and at temperature 0 all {n} answers are the same.")


def _leave_blank(tally: _Tally, question: _Question, answers: Sequence[BaseAnswer]) -> None:
    """Count a pair of which an answer says nothing, or both are one."""
    texts = [answer.text.strip() for answer in answers]
    blank = [text for answer, text in zip(answers, texts, strict=True) if not whole(answer)]
    reason = "equal" if not blank else "cut" if any(blank) else "empty"
    tally.leave_out(reason, plain_text(question.prompt), *texts[:2])
