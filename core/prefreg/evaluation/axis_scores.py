"""Rank the answers of a file by an axis: rows → tokens → both poles → rewards."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg.axes.axis import (
    Message,
    PreferencePair,
    Row,
    Text,
    is_blank,
    merge_options,
    plain_text,
    read_message,
)
from prefreg.axes.row_sources import read_rows
from prefreg.composition.implicit_reward import Reward, implicit_rewards, reward_to_json
from prefreg.composition.resolve import trained_options
from prefreg.data.instructions import read_row
from prefreg.data.rendering import encode_answers, end_answer, end_id, prompt_length
from prefreg.data.templates import AnsweredPrompt, check_options
from prefreg.data.tokens import check_vocabulary
from prefreg.errors import BaseModelError, DataError, OutputError
from prefreg.evaluation.candidates import find_versions
from prefreg.evaluation.evaluation_request import ScoreRequest
from prefreg.evaluation.evaluator import Evaluator
from prefreg.evaluation.prompts import read_asked
from prefreg.evaluation.statistics import Estimate, grouped_rate, spearman
from prefreg.files import write_json_lines
from prefreg.models import padded
from prefreg.models.loading import load_limits
from prefreg.models.log_probs import text_log_probs
from prefreg.progress import Progress
from prefreg.registry import Access, VersionRecord
from prefreg.terms import Term
from prefreg.vectors.fine_tunes import open_change

_COLUMNS = "'answer' or 'answers' beside 'prompt', 'chosen' and 'rejected', or 'messages'"


@dataclass(frozen=True, slots=True)
class AnsweredRow:
    """A row with the answers that are ranked."""

    number: int
    """In the file, as messages name it."""
    row: Row
    prompt: Text
    answers: tuple[Text, ...]
    is_pair: bool
    """Whether the first answer is the one that the row calls chosen, and the second rejected."""
    told: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """A row with the rewards of its answers, in their order."""

    source: AnsweredRow
    rewards: tuple[Reward, ...]

    @property
    def texts(self) -> list[str]:
        """What each answer says."""
        return [plain_text(answer) for answer in self.source.answers]

    @property
    def ranks(self) -> list[int]:
        """The place of each answer, the best at 1."""
        order = sorted(range(len(self.rewards)), key=lambda at: -self.rewards[at].value)
        return [order.index(at) + 1 for at in range(len(order))]

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {
            "row": self.source.number,
            "prompt": plain_text(self.source.prompt),
            "answers": [
                {"answer": text, **reward_to_json(reward), "rank": rank}
                for text, reward, rank in zip(self.texts, self.rewards, self.ranks, strict=True)
            ],
        }

    def to_row(self) -> dict[str, Any]:
        """Return the row of the file with its rewards beside it, in the order of its answers."""
        return {**self.source.row, "rewards": [each.value for each in self.rewards]}


@dataclass(frozen=True, slots=True)
class PoleAgreement:
    """How far φ alone ranks answers as the poles do that were trained."""

    same_order: float | None
    """Share of two answers to one prompt that stand in the same order; None without any two."""
    spearman: float
    """Rank correlation over all answers."""


@dataclass(frozen=True, slots=True)
class AxisScores:
    """A file of answers as an axis sees them."""

    record: VersionRecord
    rows: tuple[ScoredRow, ...]
    accuracy: Estimate | None
    """Share of pairs whose chosen answer gets more; None where no row is a pair."""
    poles: PoleAgreement | None

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {
            "axis": self.record.axis,
            "version": self.record.number,
            "rows": [each.to_json() for each in self.rows],
            "accuracy": self.accuracy and self.accuracy.to_json(),
            "poles": self.poles
            and {"same_order": self.poles.same_order, "spearman": self.poles.spearman},
        }

    def write(self, file: Path, *, overwrite: bool = False) -> None:
        """Write every row of the file with its `rewards`, one JSON object a line.

        Raises:
            OutputError: The file is there already.
        """
        if file.exists() and not overwrite:
            raise OutputError(f"{file} is there already: name another, or add --overwrite.")
        write_json_lines(file, [each.to_row() for each in self.rows])


def score_file(
    access: Access, request: ScoreRequest, progress: Progress | None = None
) -> AxisScores:
    """Score every answer of a file by an axis, from its φ alone."""
    rows = read_answers(request.file)
    found = find_versions(
        access, [Term(request.axis, 1.0, request.reference)], request.base, request.at
    )
    if len(found.terms) != 1:
        raise DataError(f"{request.axis!r} is no single axis: name one that judges.")
    record = found.terms[0].record
    # φ/2 of a vector of low rank is lost in bfloat16.
    evaluator = Evaluator(found.base, access, terms=found.terms, dtype=torch.float32)
    options = request.asked_options
    if options is None:
        options = trained_options([record])
    check_options(evaluator.tokenizer, options)
    texts = _tokenise(rows, evaluator, options)

    def turn(eta: float) -> PreTrainedModel:
        return evaluator.model(evaluator.at([eta]))

    rewards = implicit_rewards(turn, texts, record, progress)
    each = iter(rewards)
    scored = tuple(ScoredRow(row, tuple(next(each) for _ in row.answers)) for row in rows)
    return AxisScores(
        record,
        scored,
        _accuracy(scored),
        _compare_poles(evaluator, request, texts, scored),
    )


def read_answers(path: Path) -> list[AnsweredRow]:
    """Read the rows of a file: a prompt with `answer` or `answers`, pairs, or dialogues.

    Beside `answer` and `answers` a prompt that is a string is a turn of the user, and an answer
    one of the assistant. Pairs are TRL's, whose strings are taken verbatim; `messages`, and a
    prompt with its `completion`, are what `prefreg sft` reads.
    """
    found = []
    for number, row in read_rows(path):
        try:
            found.append(_read(number, row))
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}") from error
    return found


def _read(number: int, row: Row) -> AnsweredRow:
    if "chosen" in row and "rejected" in row:
        pair = PreferencePair.from_row(row)
        return AnsweredRow(number, row, pair.prompt, (pair.chosen, pair.rejected), True, pair.told)
    if "answer" in row or "answers" in row:
        given = row["answers"] if row.get("answers") is not None else [row["answer"]]
        if not isinstance(given, Sequence) or isinstance(given, str) or not given:
            raise DataError("column 'answers' is no list of answers")
        asked = read_asked(row)
        answers = tuple(_read_answer(each) for each in given)
        return AnsweredRow(number, row, asked.prompt, answers, False, asked.told)
    if {"messages", "completion", "output"} & row.keys():
        example = read_row(row)[1][-1]
        if is_blank(example.answer):
            raise DataError("the answer is empty")
        told = example.tools, example.template_options
        return AnsweredRow(number, row, example.prompt, (example.answer,), False, told)
    raise DataError(
        f"the row has none of the columns {_COLUMNS} (found: {', '.join(sorted(row)) or 'none'})"
    )


def _read_answer(value: object) -> Text:
    turns = [{"role": "assistant", "content": value}] if isinstance(value, str) else value
    if not isinstance(turns, Sequence) or not turns:
        raise DataError("an answer is neither a string nor a list of messages")
    answer: tuple[Message, ...] = tuple(read_message(turn, "answers") for turn in turns)
    if is_blank(answer):
        raise DataError("an answer is empty")
    return answer


def _tokenise(
    rows: Sequence[AnsweredRow], evaluator: Evaluator, options: Mapping[str, Any]
) -> list[padded.Text]:
    """Write every answer behind its prompt as a training does; none may exceed the context."""
    tokenizer: PreTrainedTokenizerBase = evaluator.tokenizer
    context, vocabulary = load_limits(evaluator.base)
    eos = end_id(tokenizer)
    asked = []
    for each in rows:
        tools, own = each.told
        merged = own if isinstance(each.prompt, str) else merge_options(options, own)
        asked.append(AnsweredPrompt(each.prompt, each.answers, f"row {each.number}", tools, merged))
    texts: list[padded.Text] = []
    for each, (rendered, ids) in zip(rows, encode_answers(asked, tokenizer), strict=True):
        start = prompt_length(rendered, ids, tokenizer)
        for whole in ids[1:]:
            answer = end_answer(rendered.rendering, whole[start:], eos)
            if not answer:
                raise DataError(
                    f"The chat template writes nothing of an answer of row {each.number}."
                )
            if context is not None and start + len(answer) > context:
                raise BaseModelError(
                    f"Row {each.number} has {start + len(answer)} tokens with an answer, more than "
                    f"the base's context of {context}: leave it out."
                )
            texts.append((ids[0][:start], answer))
    check_vocabulary((array("i", ids) for text in texts for ids in text), vocabulary)
    return texts


def _accuracy(rows: Sequence[ScoredRow]) -> Estimate | None:
    pairs = [each for each in rows if each.source.is_pair]
    if not pairs:
        return None
    groups = [str(each.source.row.get("group") or each.source.prompt) for each in pairs]
    return grouped_rate([each.ranks[0] == 1 for each in pairs], groups)


def _compare_poles(
    evaluator: Evaluator,
    request: ScoreRequest,
    texts: Sequence[padded.Text],
    rows: Sequence[ScoredRow],
) -> PoleAgreement | None:
    if request.plus is None or request.minus is None:
        return None
    plus, minus = (
        text_log_probs(evaluator.turn([(1.0, open_change(pole, evaluator.base))]), texts)
        for pole in (request.plus, request.minus)
    )
    theirs = (plus - minus).tolist()
    ours = [each.value for row in rows for each in row.rewards]
    return compare_orders(ours, theirs, [len(row.rewards) for row in rows])


def compare_orders(
    ours: Sequence[float], theirs: Sequence[float], sizes: Sequence[int]
) -> PoleAgreement:
    """Compare two scores of the same answers, of which so many stand in each row."""
    same = []
    start = 0
    for size in sizes:
        for one, other in combinations(range(start, start + size), 2):
            same.append((ours[one] > ours[other]) == (theirs[one] > theirs[other]))
        start += size
    order = sorted(range(len(ours)), key=lambda at: theirs[at])
    return PoleAgreement(
        sum(same) / len(same) if same else None, spearman([ours[at] for at in order])
    )
