"""From labelled rows to the pairs of a run: cleaned, split and shuffled."""

import hashlib
import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from prefreg.axes.answer_texts import word_count
from prefreg.axes.axis import PreferencePair, is_blank
from prefreg.errors import DataError
from prefreg.json_values import JsonFields


@dataclass(frozen=True, slots=True)
class Audit(JsonFields):
    """Counts of rows and pairs, and figures about the pairs that were kept."""

    rows: int
    """Rows that came in: `pairs` and the six counts of dropped ones add up to it."""
    ties: int
    empty: int
    """Pairs with an answer that says nothing."""
    identical: int
    """Pairs whose two answers are the same text."""
    duplicates: int
    """Exact repetitions of an earlier pair."""
    contradictions: int
    """Pairs that also occur in the opposite order; both are dropped, for both poles."""
    unbalanced: int
    """Pairs left out so that length predicts nothing; none without --length-balanced."""
    pairs: int
    train: int
    heldout: int
    shared_prompts: int
    """Prompts on both sides of the split; not zero only with a separate held-out set."""
    chosen_longer: float
    """Share of pairs whose chosen answer has more words: .5 has no length bias."""
    equal_length: float
    chosen_words: float
    rejected_words: float
    dropped_long: int = 0
    """Pairs dropped because they exceed the maximum length; known once tokenised."""
    truncated: int = 0
    """Pairs with an answer that was cut at the maximum length."""
    indistinct: int = 0
    """Pairs dropped because their answers are the same tokens, whole or as cut."""
    merged: int = 0
    """Pairs of plain text in which a token spans the end of the prompt."""
    implicit: int = 0
    """Pairs whose prompt is what both answers began with, as their rows named none."""
    repeated: int = 0
    """Pairs whose answers repeated their prompt, which was taken away."""
    verbatim: int = 0
    """Pairs of strings on a base that has a chat template, which does not write them."""
    diverged: int = 0
    """Pairs whose prompt the chat template ends differently alone and before an answer."""
    incomplete: int = 0
    """Pairs with keys of messages that the chat template does not write."""

    def notes(self, max_length: int) -> list[str]:
        """Say what a run should know of its rows, once they are tokens, in sentences."""
        found = []
        if self.implicit:
            found.append(
                f"{self.implicit} rows name no prompt: it is what both answers begin with, as "
                "in TRL."
            )
        if self.repeated:
            found.append(
                f"The answers of {self.repeated} rows begin with their prompt, which was taken "
                "away."
            )
        if self.truncated + self.dropped_long:
            found.append(
                f"Of {self.pairs} pairs, {self.truncated + self.dropped_long} are longer than "
                f"{max_length} tokens: {self.truncated} were cut, {self.dropped_long} left out."
            )
        return found


@dataclass(frozen=True, slots=True)
class LengthBias:
    """How the lengths of the answers, in words, go with the preference."""

    chosen_longer: float
    equal_length: float
    chosen_words: float
    rejected_words: float


def measure_length(pairs: Sequence[PreferencePair]) -> LengthBias:
    """Compare the lengths of chosen and rejected answers."""
    lengths = [(word_count(pair.chosen), word_count(pair.rejected)) for pair in pairs]
    count = max(len(lengths), 1)
    return LengthBias(
        chosen_longer=sum(chosen > rejected for chosen, rejected in lengths) / count,
        equal_length=sum(chosen == rejected for chosen, rejected in lengths) / count,
        chosen_words=sum(chosen for chosen, _ in lengths) / count,
        rejected_words=sum(rejected for _, rejected in lengths) / count,
    )


_EXACT = 10
"""Up to this many words, pairs are matched by their exact difference; above, within 10 %."""


def balance_lengths(pairs: Sequence[PreferencePair], *, seed: int) -> list[PreferencePair]:
    """Keep as many pairs whose chosen answer is longer as pairs whose rejected one is.

    That holds for every size of the difference in words, so that no threshold on it tells which
    answer is chosen; pairs of equal length stay. The order of the pairs stays, too.
    """
    sides: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    kept: list[int] = []
    for position, pair in enumerate(pairs):
        gap = word_count(pair.chosen) - word_count(pair.rejected)
        if gap == 0:
            kept.append(position)
        else:
            sides[_stratum(abs(gap))][gap < 0].append(position)
    draw = random.Random(f"balance/{seed}")
    for stratum in sorted(sides):
        longer, shorter = sides[stratum]
        count = min(len(longer), len(shorter))
        kept += draw.sample(longer, count) + draw.sample(shorter, count)
    return [pairs[position] for position in sorted(kept)]


def _stratum(gap: int) -> int:
    if gap <= _EXACT:
        return gap
    return _EXACT + math.ceil(math.log(gap / _EXACT) / math.log(1.1))


HELDOUT_SHARE = 0.1
HELDOUT_LIMIT = 200
"""More held-out pairs cost two more forward passes each and sharpen no verdict of a guard:
at 200 the standard error of an accuracy of .5 is .035."""
SMALLEST_SPLIT = 10
"""Fewer groups than this are all trained on."""
SMALLEST_BALANCE = 0.2
"""A balanced run that keeps a smaller share of its pairs is refused: its axis is length itself."""


@dataclass(frozen=True, slots=True)
class PairSet:
    """The pairs of a run; those of the positive pole."""

    train: tuple[PreferencePair, ...]
    heldout: tuple[PreferencePair, ...]
    fingerprint: str
    """sha256 of the kept pairs, whatever their order."""
    audit: Audit


def build_pairs(
    labelled: Iterable[PreferencePair | None],
    *,
    axis_name: str,
    seed: int,
    heldout: Sequence[PreferencePair] | None = None,
    length_balanced: bool = False,
) -> PairSet:
    """Drop what cannot teach, hold out whole groups, and shuffle the rest.

    The held-out pairs depend on the data alone (balanced ones on the seed too); the order of the
    training pairs depends on the data and the seed, not on the order in which the rows came.
    """
    counts, kept = _clean(labelled, axis_name)
    if counts["rows"] and counts["ties"] == counts["rows"]:
        raise DataError(
            f"The label rule of axis {axis_name!r} never decides: all {counts['rows']} rows are "
            "ties. Correct the rule, or the columns that it looks at."
        )
    if not kept:
        raise DataError(f"Axis {axis_name!r} has nothing to train on: {_account(counts)}.")
    if heldout is None:
        train, held = _split(kept)
    else:
        train, held = list(kept.values()), list(heldout)
    if length_balanced:
        train = _balance(train, axis_name, seed)
        held = balance_lengths(held, seed=seed) if heldout is None else held
    count = len(train) + (len(held) if heldout is None else 0)
    pairs = [*train, *held]
    random.Random(seed).shuffle(train)
    held_prompts = {_prompt_key(pair) for pair in held}
    audit = Audit(
        rows=counts["rows"],
        ties=counts["ties"],
        empty=counts["empty"],
        identical=counts["identical"],
        duplicates=counts["duplicates"],
        contradictions=counts["contradictions"],
        unbalanced=len(kept) - count,
        pairs=count,
        train=len(train),
        heldout=len(held),
        implicit=counts["beginning"],
        repeated=counts["repetition"],
        shared_prompts=len(held_prompts & {_prompt_key(pair) for pair in train}),
        **asdict(measure_length(pairs)),
    )
    return PairSet(tuple(train), tuple(held), fingerprint_pairs(pairs), audit)


def fingerprint_pairs(pairs: Iterable[PreferencePair]) -> str:
    """Return the sha256 over the sorted sha256 of each pair's canonical JSON."""
    total = hashlib.sha256()
    for digest in sorted(map(_digest, pairs)):
        total.update(digest)
    return total.hexdigest()


def _clean(
    labelled: Iterable[PreferencePair | None], axis_name: str
) -> tuple[Counter[str], dict[bytes, PreferencePair]]:
    """Drop ties, empty and identical answers, repetitions and contradictions; sort by digest."""
    counts: Counter[str] = Counter()
    unique: dict[tuple[object, ...], tuple[bytes, PreferencePair]] = {}
    for pair in labelled:
        counts["rows"] += 1
        if pair is None:
            counts["ties"] += 1
        elif is_blank(pair.chosen) or is_blank(pair.rejected):
            counts["empty"] += 1
        elif pair.chosen == pair.rejected:
            counts["identical"] += 1
        elif (key := (pair.chosen, pair.rejected, *_context(pair))) in unique:
            counts["duplicates"] += 1
        else:
            try:
                unique[key] = _digest(pair), pair
            except UnicodeEncodeError as error:
                raise DataError(
                    f"Row {counts['rows']} of axis {axis_name!r} holds half of a surrogate pair, "
                    "which is no character: correct the text."
                ) from error
    kept: dict[bytes, PreferencePair] = {}
    for digest, pair in unique.values():
        if (pair.rejected, pair.chosen, *_context(pair)) in unique:
            counts["contradictions"] += 1
        else:
            kept[digest] = pair
            counts[pair.prompt_from] += 1
    return counts, dict(sorted(kept.items()))


def _split(
    kept: Mapping[bytes, PreferencePair],
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Hold out the groups with the smallest hashes, as many as fit into the share."""
    groups: dict[bytes, list[PreferencePair]] = {}
    for pair in kept.values():
        groups.setdefault(_group_key(pair), []).append(pair)
    if len(groups) < SMALLEST_SPLIT:
        return list(kept.values()), []
    target = min(HELDOUT_LIMIT, max(1, round(HELDOUT_SHARE * len(kept))))
    held: set[bytes] = set()
    size = 0
    for key in sorted(groups):
        if size + len(groups[key]) <= target:
            held.add(key)
            size += len(groups[key])
    # Where every group is larger than the share, the smallest one is held out all the same.
    held = held or {min(groups, key=lambda key: (len(groups[key]), key))}
    train = [pair for pair in kept.values() if _group_key(pair) not in held]
    return train, [pair for pair in kept.values() if _group_key(pair) in held]


def _balance(pairs: Sequence[PreferencePair], axis_name: str, seed: int) -> list[PreferencePair]:
    balanced = balance_lengths(pairs, seed=seed)
    if len(balanced) < SMALLEST_BALANCE * len(pairs):
        raise DataError(
            f"Axis {axis_name!r}: of {len(pairs)} training pairs only {len(balanced)} are left "
            "once length predicts nothing, so length is what these data teach. "
            "Leave --length-balanced out, or pass other data with --data."
        )
    return balanced


def _group_key(pair: PreferencePair) -> bytes:
    name = _prompt_key(pair) if pair.group is None else "group:" + pair.group
    return hashlib.sha256(name.encode()).digest()


def _context(pair: PreferencePair) -> tuple[object, ...]:
    return pair.prompt, *pair.told


def _prompt_key(pair: PreferencePair) -> str:
    return json.dumps(pair.prompt, ensure_ascii=False)


def _digest(pair: PreferencePair) -> bytes:
    content: list[object] = [pair.prompt, pair.chosen, pair.rejected, pair.group]
    if any(pair.told):  # the pairs that have none keep their hashes
        content += pair.told
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).digest()


def _account(counts: Counter[str]) -> str:
    if not counts["rows"]:
        return "its source gave no rows"
    dropped = {
        "ties": "ties",
        "empty": "with an empty answer",
        "identical": "with identical answers",
        "duplicates": "repetitions",
        "contradictions": "contradicting one another",
    }
    parts = [f"{counts[key]} {words}" for key, words in dropped.items() if counts[key]]
    return f"of {counts['rows']} rows, {', '.join(parts)}"
