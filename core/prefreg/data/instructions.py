"""Instructions with their answers: what a base model is fine-tuned on before any axis."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from prefreg.axes.axis import Message, Row, Text, is_blank, read_message, read_told
from prefreg.axes.row_sources import read_rows
from prefreg.data.pairs import HELDOUT_LIMIT, HELDOUT_SHARE, SMALLEST_SPLIT
from prefreg.errors import DataError
from prefreg.json_values import JsonFields

Form = Literal["messages", "prompt/completion", "instruction/output"]

_FORMS = "'messages', 'prompt' and 'completion', or 'instruction' and 'output'"


@dataclass(frozen=True, slots=True)
class Instruction:
    """A prompt with the one answer that is learnt: both strings, or both messages."""

    prompt: Text
    answer: Text
    tools: str = ""
    """The tools that the chat template is told of, as JSON text of a list."""
    template_options: str = ""
    """What else the chat template is told, as JSON text of an object."""


@dataclass(frozen=True, slots=True)
class InstructionAudit(JsonFields):
    """What became of the rows; the examples are those of all their answers."""

    rows: int
    examples: int
    """Answers in the rows: a dialogue has one for each turn of the assistant."""
    empty: int
    """Examples dropped because they have no answer."""
    duplicates: int
    train: int
    heldout: int
    dropped_long: int = 0
    """Examples dropped because they exceed the maximum length; known once tokenised."""
    truncated: int = 0
    """Examples whose answer was cut at the maximum length."""


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """The examples of a run."""

    train: tuple[Instruction, ...]
    heldout: tuple[Instruction, ...]
    fingerprint: str
    """sha256 of the examples, whatever their order."""
    forms: tuple[Form, ...]
    audit: InstructionAudit


def read_instructions(
    path: Path, *, limit: int | None = None, heldout: Path | None = None
) -> InstructionSet:
    """Read examples from a file of rows, and hold some out unless a file has them already.

    Which are held out depends on the data alone: whole prompts, a tenth and at most 200.
    """
    counts: Counter[str] = Counter()
    forms: set[Form] = set()
    found = _unique(_examples(path, limit, counts, forms), counts)
    if not found:
        raise DataError(
            f"{path} has no answer to learn: of {counts['examples']} in {counts['rows']} rows, "
            f"{counts['empty']} are empty."
        )
    if heldout is None:
        train, held = _split(found)
    else:
        train = list(found.values())
        held = list(_unique(_examples(heldout, None, Counter(), forms), Counter()).values())
    total = hashlib.sha256()
    for digest in sorted(map(_digest, (*train, *held))):
        total.update(digest)
    audit = InstructionAudit(
        rows=counts["rows"],
        examples=counts["examples"],
        empty=counts["empty"],
        duplicates=counts["duplicates"],
        train=len(train),
        heldout=len(held),
    )
    return InstructionSet(tuple(train), tuple(held), total.hexdigest(), tuple(sorted(forms)), audit)


def read_row(row: Row) -> tuple[Form, list[Instruction]]:
    """Read the examples of a row; an answer that is empty stays in, to be counted."""
    form, examples = _read_form(row)
    tools, options = read_told(row, examples[0].prompt)
    return form, [replace(each, tools=tools, template_options=options) for each in examples]


def _read_form(row: Row) -> tuple[Form, list[Instruction]]:
    if "messages" in row:
        return "messages", list(_of_dialogue(_messages(row["messages"], "messages")))
    if "prompt" in row and "completion" in row:
        return "prompt/completion", [_of_completion(row["prompt"], row["completion"])]
    if "instruction" in row and "output" in row:
        texts = [row["instruction"], row.get("input") or "", row["output"]]
        if not all(isinstance(text, str) for text in texts):
            raise DataError("'instruction', 'input' and 'output' must be strings")
        asked = "\n\n".join(text for text in texts[:2] if text.strip())
        if not asked:
            raise DataError("column 'instruction' is empty")
        prompt, answer = Message("user", asked), Message("assistant", texts[2])
        return "instruction/output", [Instruction((prompt,), (answer,))]
    found = ", ".join(sorted(row)) or "none"
    raise DataError(f"the row has none of the columns {_FORMS} (found: {found})")


def _examples(
    path: Path, limit: int | None, counts: Counter[str], forms: set[Form]
) -> Iterator[Instruction]:
    for number, row in read_rows(path):
        if limit is not None and counts["rows"] >= limit:
            return
        counts["rows"] += 1
        try:
            form, examples = read_row(row)
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}.") from error
        forms.add(form)
        yield from examples


def _of_dialogue(turns: Sequence[Message]) -> Iterator[Instruction]:
    """Make an example of every turn of the assistant, with all that was said before it."""
    answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    if not answers:
        raise DataError("the dialogue has no turn of the assistant to learn")
    if answers[0] == 0:
        raise DataError("the dialogue begins with the assistant, so nothing asks for its answer")
    for index in answers:
        yield Instruction(tuple(turns[:index]), (turns[index],))


def _of_completion(prompt: object, completion: object) -> Instruction:
    if isinstance(prompt, str) and isinstance(completion, str):
        if not prompt:
            raise DataError("column 'prompt' is empty")
        return Instruction(prompt, completion)
    asked = _messages(prompt, "prompt")
    if isinstance(completion, str):
        return Instruction(asked, (Message("assistant", completion),))
    return Instruction(asked, _messages(completion, "completion"))


def _messages(value: object, column: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"column {column!r} is no list of messages")
    return tuple(read_message(item, column) for item in value)


def _unique(examples: Iterable[Instruction], counts: Counter[str]) -> dict[bytes, Instruction]:
    """Drop what has no answer and repetitions; sort by digest."""
    kept: dict[bytes, Instruction] = {}
    for example in examples:
        counts["examples"] += 1
        digest = _digest(example)
        if is_blank(example.answer):
            counts["empty"] += 1
        elif digest in kept:
            counts["duplicates"] += 1
        else:
            kept[digest] = example
    return dict(sorted(kept.items()))


def _split(kept: Mapping[bytes, Instruction]) -> tuple[list[Instruction], list[Instruction]]:
    """Hold out the prompts with the smallest hashes; dialogues that begin alike stay together."""
    groups: dict[bytes, list[Instruction]] = {}
    for example in kept.values():
        groups.setdefault(_beginning(example), []).append(example)
    if len(groups) < SMALLEST_SPLIT:
        return list(kept.values()), []
    target = min(HELDOUT_LIMIT, max(1, round(HELDOUT_SHARE * len(kept))))
    train: list[Instruction] = []
    held: list[Instruction] = []
    for key in sorted(groups):
        fits = len(held) + len(groups[key]) <= target
        (held if fits else train).extend(groups[key])
    return train, held


def _beginning(example: Instruction) -> bytes:
    asked = example.prompt
    if not isinstance(asked, str):
        asked = next((turn.content for turn in asked if turn.role == "user"), asked[0].content)
    return hashlib.sha256(asked.encode()).digest()


def _digest(example: Instruction) -> bytes:
    content: list[object] = [example.prompt, example.answer]
    if example.tools or example.template_options:  # the examples that have none keep their hashes
        content += [example.tools, example.template_options]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).digest()
