"""Checks of an axis' rows and of its pairs: how they are read, labelled, worded and switched."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from prefreg.axes.axis import Axis, PreferencePair, Row, SourceRequest, Text, plain_text
from prefreg.axes.isolation import (
    isolated,
    label_rows,
    measure,
    owned,
    read_source,
    switch_pair,
)
from prefreg.axes.row_sources import encodable
from prefreg.data.pairs import Audit, PairSet
from prefreg.data.tokens import PreviewToken
from prefreg.errors import DataError, one_line
from prefreg.json_values import to_json

Status = Literal["passed", "warned", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check, with the figure or the example that it rests on."""

    check: str
    status: Status
    message: str


def passed(check: str, message: str) -> Finding:
    """Report that the axis keeps what is checked."""
    return Finding(check, "passed", message)


def warned(check: str, message: str) -> Finding:
    """Report what its author should know and may want."""
    return Finding(check, "warned", message)


def failed(check: str, message: str) -> Finding:
    """Report what must be corrected."""
    return Finding(check, "failed", message)


@dataclass(frozen=True, slots=True)
class AxisCheck:
    """Everything that was found about an axis; a check that an earlier one prevents is absent."""

    axis: str
    source: str
    seed: int
    rows: int
    """Rows that were read."""
    findings: tuple[Finding, ...]
    audit: Audit | None = None
    """What became of the rows, where they could be labelled."""
    preview: tuple[list[PreviewToken], ...] = ()
    """The first pairs, as the bundled model's tokenizer writes them."""

    @property
    def passed(self) -> bool:
        """Whether no check failed; warnings do not count."""
        return not self._count("failed")

    def to_json(self) -> dict[str, Any]:
        """Return the report in a form that JSON can hold."""
        return {
            "axis": self.axis,
            "source": self.source,
            "seed": self.seed,
            "rows": self.rows,
            "passed": self.passed,
            "findings": to_json(self.findings),
            "audit": to_json(self.audit),
            "preview": to_json(self.preview),
        }

    def __str__(self) -> str:
        """Write a line for each check, the verdict, and the preview."""
        width = max(len(finding.check) for finding in self.findings)
        lines = [f"Axis {self.axis}: {self.rows} rows of {self.source!r}, seed {self.seed}", ""]
        lines += [
            f"{finding.status}  {finding.check.ljust(width)}  {finding.message}"
            for finding in self.findings
        ]
        lines += ["", self._verdict()]
        for number, example in enumerate(self.preview, 1):
            lines += ["", f"example {number}"]
            for role in ("prompt", "chosen", "rejected"):
                tokens = " ".join(token.text for token in example if token.role == role)
                lines.append(f"  {role:<9}{tokens}")
        return "\n".join(lines)

    def _verdict(self) -> str:
        counts = {status: self._count(status) for status in ("passed", "warned", "failed")}
        counted = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        return f"{'It conforms' if self.passed else 'It does not conform'}: {counted}."

    def _count(self, status: str) -> int:
        return sum(finding.status == status for finding in self.findings)


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FIELDS = ("prompt", "chosen", "rejected")
_MANY_TIES = 0.5
_MANY_DROPPED = 0.5
_MEASURED = 50
"""Pairs whose answers the metric scores: it may use a model."""
_BIASED = 0.8
# What text becomes when UTF-8 is read as Latin-1 or what cannot be read is replaced.
_DAMAGED = ("\ufffd", "â€", "Ã¤", "Ã©", "Ã¶", "Ã¼", "\x00")


def check_texts(pairs: Sequence[PreferencePair]) -> Finding:
    """Check that no prompt and no answer is empty."""
    for number, pair in enumerate(pairs, start=1):
        for field in _FIELDS:
            if not _text(pair, field).strip():
                return failed("texts", f"pair {number} has an empty {field} text: drop such rows")
    return passed("texts", f"the prompts and answers of {len(pairs)} pairs are not empty")


def check_encoding(pairs: Sequence[PreferencePair]) -> Finding:
    """Check that every text is Unicode that can be written, and has no traces of damage."""
    damaged = []
    for number, pair in enumerate(pairs, start=1):
        if not encodable(pair):
            return failed(
                "encoding", f"pair {number} holds half of a surrogate pair, which is no character"
            )
        if any(mark in _text(pair, field) for field in _FIELDS for mark in _DAMAGED):
            damaged.append(number)
    if damaged:
        return warned(
            "encoding",
            f"{len(damaged)} pairs look as if they were decoded wrongly, the first is {damaged[0]}",
        )
    return passed("encoding", "every text is valid Unicode")


def check_switch(axis: Axis, pairs: Sequence[PreferencePair]) -> Finding:
    """Check that the switch exchanges the preference, and takes itself back, on every pair."""
    unusual = []
    for number, pair in enumerate(pairs, start=1):
        try:
            other = switch_pair(axis, pair, number)
            back = switch_pair(axis, other, number)
        except DataError as error:
            return failed("switch", str(error))
        if other.chosen == pair.chosen and pair.chosen != pair.rejected:
            return failed(
                "switch",
                f"pair {number} keeps its chosen answer, so both poles would learn the same",
            )
        if back != pair:
            lost = [f for f in (*_FIELDS, "group") if getattr(back, f) != getattr(pair, f)]
            return failed(
                "switch",
                f"switched twice, pair {number} does not come back: another {', '.join(lost)}",
            )
        if other != pair.switched():
            unusual.append(number)
    if unusual:
        return warned(
            "switch",
            f"{len(unusual)} pairs are changed by more than an exchange of their answers, the "
            f"first is {unusual[0]}; the poles then differ in more than the preference",
        )
    return passed("switch", f"an involution on all {len(pairs)} pairs")


def check_repetitions(audit: Audit) -> Iterator[Finding]:
    """Check how many pairs say nothing new, nothing at all, or the opposite of another."""
    labelled = audit.rows - audit.ties
    for check, count, what in (
        ("duplicates", audit.duplicates, "pairs repeat an earlier one"),
        ("identical", audit.identical, "pairs have two equal answers"),
        ("contradictions", audit.contradictions, "pairs also occur in the opposite order"),
    ):
        said = f"{count} of {labelled} {what}"
        if not count:
            yield passed(check, said)
        elif count > _MANY_DROPPED * labelled:
            yield failed(check, f"{said}: correct the source or the label rule")
        else:
            yield warned(check, f"{said}; they are dropped")


def check_leaks(pairs: PairSet) -> Finding:
    """Check that nothing of the held-out pairs is trained on, whichever groups are held out."""
    train, heldout = pairs.train, pairs.heldout
    groups: dict[str, set[str]] = defaultdict(set)
    for pair in (*train, *heldout):
        name = plain_text(pair.prompt) if pair.group is None else pair.group
        groups[_normal(pair.prompt)].add(name)
    advice = "give the rows of one prompt one group"
    seen = {_normal(pair.prompt) for pair in train}
    if shared := [pair for pair in heldout if _normal(pair.prompt) in seen]:
        return failed(
            "leaks",
            f"{len(shared)} of {len(heldout)} held-out pairs have a prompt that is trained on, "
            f"but for case and spaces, as {plain_text(shared[0].prompt)[:60]!r}: {advice}",
        )
    if several := [prompt for prompt, names in groups.items() if len(names) > 1]:
        return warned(
            "leaks",
            f"{len(several)} prompts stand in several groups, as {several[0][:60]!r}: {advice}",
        )
    if not heldout:
        return warned(
            "leaks", f"too few groups to hold any of the {len(train)} pairs out: add prompts"
        )
    return passed("leaks", f"{len(train)} training and {len(heldout)} held-out pairs share nothing")


def check_length(audit: Audit) -> Finding:
    """Check whether the longer answer is nearly always, or hardly ever, the chosen one."""
    said = (
        f"the chosen answer is longer in {audit.chosen_longer:.0%} of the pairs and equally long "
        f"in {audit.equal_length:.0%} ({audit.chosen_words:.1f} and {audit.rejected_words:.1f} "
        "words)"
    )
    unequal = 1 - audit.equal_length
    share = audit.chosen_longer / unequal if unequal else 0.5
    if max(share, 1 - share) > _BIASED and unequal > 1 - _BIASED:
        longer = "longer" if share > 0.5 else "shorter"
        return warned(
            "length",
            f"{said}: the vector will mean {longer!r}, too, unless add-axis --length-balanced",
        )
    return passed("length", said)


def check_metric(axis: Axis, pairs: Sequence[PreferencePair]) -> Finding:
    """Check that the metric is a finite number where it applies, and agrees with the labels."""
    agreeing = measured = 0
    for pair in pairs[:_MEASURED]:
        prompt = plain_text(pair.prompt)
        try:
            chosen = measure(axis, prompt, plain_text(pair.chosen))
            rejected = measure(axis, prompt, plain_text(pair.rejected))
        except DataError as error:
            return failed("metric", str(error))
        if chosen is not None and rejected is not None:
            measured += 1
            agreeing += chosen > rejected
    if not measured:
        return warned("metric", "it applies to none of the pairs, so it measures nothing here")
    said = f"the chosen answer scores higher in {agreeing} of {measured} pairs"
    if 2 * agreeing < measured:
        return warned("metric", f"{said}: it should grow along the axis")
    return passed("metric", said)


def _text(pair: PreferencePair, field: str) -> str:
    text: Text = getattr(pair, field)
    return plain_text(text)


def _normal(prompt: Text) -> str:
    return " ".join(plain_text(prompt).casefold().split())


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """The rows of one request, with what the label rule made of each."""

    rows: tuple[Row, ...]
    labelled: tuple[PreferencePair | None, ...]

    @property
    def pairs(self) -> tuple[PreferencePair, ...]:
        """Return the pairs of the rows that are no ties."""
        return tuple(pair for pair in self.labelled if pair is not None)


def take_rows(axis: Axis, source: str, *, limit: int, seed: int) -> tuple[Row, ...]:
    """Ask a source for rows and take `limit` of them at most."""
    found = read_source(axis, source, SourceRequest(limit=limit, seed=seed))
    return tuple(islice(found.rows, limit))


def label_all(axis: Axis, rows: Sequence[Row]) -> LabelledRows:
    """Label rows."""
    return LabelledRows(tuple(rows), tuple(label_rows(axis, rows)))


def check_columns(axis: Axis, rows: Sequence[Row]) -> Finding:
    """Check that every row has the same columns, and strings for their names."""
    with isolated(f"The columns of a row of {owned(axis)} cannot be read"):
        columns = [tuple(row) for row in rows]
    for number, names in enumerate(columns, start=1):
        if strange := [name for name in names if not isinstance(name, str)]:
            return failed("columns", f"row {number} has a column {strange[0]!r}: use a string")
    for number, names in enumerate(columns, start=1):
        if differing := sorted(set(names) ^ set(columns[0])):
            return warned(
                "columns", one_line(f"rows 1 and {number} differ in {', '.join(differing)}")
            )
    return passed("columns", one_line(", ".join(columns[0])) or "none")


def check_limit(axis: Axis, source: str, *, rows: int, seed: int) -> Finding:
    """Check that a source gives no more rows than it is asked for."""
    limit = max(1, rows // 2)
    found = read_source(axis, source, SourceRequest(limit=limit, seed=seed))
    count = sum(1 for _ in islice(found.rows, limit + 1))
    if count > limit:
        return failed("limit", f"asked for {limit} rows it gives more: stop at request.limit")
    return passed("limit", f"asked for {limit} rows it gives {count}")


def check_determinism(
    axis: Axis, source: str, first: LabelledRows, *, limit: int, seed: int
) -> Finding:
    """Check that the same request gives the same rows and labels once more."""
    rows = take_rows(axis, source, limit=limit, seed=seed)
    if len(rows) != len(first.rows):
        return failed(
            "determinism",
            f"the same request gave {len(first.rows)} rows, then {len(rows)}: draw from "
            "random.Random(request.seed), and return a new iterator each time",
        )
    with isolated(f"The rows of {owned(axis)} cannot be compared"):
        pairs = zip(first.rows, rows, strict=True)
        differing = [number for number, (one, two) in enumerate(pairs, 1) if not _same(one, two)]
    if differing:
        return failed(
            "determinism",
            f"row {differing[0]} differs when the same request is made again: draw from "
            "random.Random(request.seed), and do not change rows in the label rule",
        )
    again = label_all(axis, rows)
    labels = zip(first.labelled, again.labelled, strict=True)
    if changed := [number for number, (one, two) in enumerate(labels, 1) if one != two]:
        return failed(
            "determinism",
            f"row {changed[0]} is labelled differently the second time: a label must depend on "
            "the row alone",
        )
    return passed("determinism", "the same request gives the same rows and labels")


def check_ties(reading: LabelledRows) -> Finding:
    """Check that the label rule decides, and how often it does not."""
    ties = sum(pair is None for pair in reading.labelled)
    share = ties / len(reading.labelled)
    if share == 1:
        return failed("ties", f"the label rule never decides: all {ties} rows are ties")
    said = f"{share:.1%} of the rows are ties ({ties} of {len(reading.labelled)})"
    return (
        warned("ties", f"{said}; they teach nothing")
        if share > _MANY_TIES
        else passed("ties", said)
    )


def _same(one: Row, two: Row) -> bool:
    """Compare two rows, also where a column holds an array that compares by element."""
    try:
        return bool(dict(one) == dict(two))
    except ValueError:
        return repr(dict(one)) == repr(dict(two))


PROMPT_WORDS = 24
ANSWER_WORDS = 40
_PUNCTUATION = ".,?!"
_SPACE = "▁"
"""What the tokens of words begin with."""


class BaseWording:
    """The words that a small base knows, and those that stand for others."""

    def __init__(self, base: str, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Read the vocabulary."""
        self._base = base
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        words = (token.removeprefix(_SPACE) for token in vocabulary if token.startswith(_SPACE))
        self._words = sorted(word for word in words if word.isalpha())
        self._said: dict[str, str] = {}

    def rewrite(self, pair: PreferencePair) -> PreferencePair:
        """Say a pair in known words, as one question and two answers."""
        prompt = plain_text(pair.prompt).split()[-PROMPT_WORDS:]
        chosen = plain_text(pair.chosen).split()[:ANSWER_WORDS]
        rejected = plain_text(pair.rejected).split()[:ANSWER_WORDS]
        return PreferencePair.from_texts(
            prompt=self._say(prompt),
            chosen=self._say(chosen),
            rejected=self._say(rejected),
            group=pair.group,
        )

    def unknown_share(self, pairs: Iterable[PreferencePair]) -> float:
        """Return the share of the answers' words that the base does not know."""
        words = [word for pair in pairs for text in _answers(pair) for word in text.split()]
        return sum(self._say_word(word) != word for word in words) / max(len(words), 1)

    def describe(self, pairs: Sequence[PreferencePair]) -> str:
        """Tell what rewriting does to these pairs; nothing where it leaves them as they are."""
        unknown = self.unknown_share(pairs)
        cut = sum(len(text.split()) > ANSWER_WORDS for pair in pairs for text in _answers(pair))
        said = f"; {unknown:.0%} of the words stood for ones that {self._base} does not know"
        told = said if unknown else ""
        return told + (f"; {cut} answers were cut to {ANSWER_WORDS} words" if cut else "")

    def _say(self, words: Iterable[str]) -> str:
        return " ".join(map(self._say_word, words))

    def _say_word(self, word: str) -> str:
        if word not in self._said:
            self._said[word] = self._find(word)
        return self._said[word]

    def _find(self, word: str) -> str:
        tokens = self._tokenizer.tokenize(word)
        if self._tokenizer.unk_token not in tokens:
            return word
        digest = hashlib.sha256(word.rstrip(_PUNCTUATION).encode()).digest()
        known = self._words[int.from_bytes(digest[:8]) % len(self._words)]
        return known + (word[-1] if word[-1] in _PUNCTUATION else "")


def _answers(pair: PreferencePair) -> tuple[str, str]:
    return plain_text(pair.chosen), plain_text(pair.rejected)
