"""From labelled rows to the pairs of a run: cleaned, split and shuffled."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from prefreg.axes import Axis, PreferencePair, Row, plain_text
from prefreg.containment import label_row, switch_pair
from prefreg.data.audit import Audit, measure_length
from prefreg.data.balance import balance_lengths
from prefreg.data.files import encodable
from prefreg.errors import DataError

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


def label_rows(axis: Axis, rows: Iterable[Row]) -> Iterator[PreferencePair | None]:
    """Apply an axis's label rule; None is a tie.

    Raises:
        DataError: A row is no mapping, or the rule failed on it or returned something else.
    """
    for number, row in enumerate(rows, start=1):
        yield label_row(axis, row, number)


def switch_pairs(axis: Axis, pairs: Sequence[PreferencePair]) -> tuple[PreferencePair, ...]:
    """Make the pairs of the negative pole.

    Raises:
        DataError: The axis's switch failed or returned something else than a pair.
    """
    return tuple(switch_pair(axis, pair, number) for number, pair in enumerate(pairs, start=1))


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

    Raises:
        DataError: Nothing is left to train on; the message says what was dropped.
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
    unique: dict[tuple[object, object, object], PreferencePair] = {}
    for pair in labelled:
        counts["rows"] += 1
        if pair is None:
            counts["ties"] += 1
        elif not all(plain_text(answer).strip() for answer in (pair.chosen, pair.rejected)):
            counts["empty"] += 1
        elif pair.chosen == pair.rejected:
            counts["identical"] += 1
        elif (key := (pair.prompt, pair.chosen, pair.rejected)) in unique:
            counts["duplicates"] += 1
        elif not encodable(pair):
            raise DataError(
                f"Row {counts['rows']} of axis {axis_name!r} holds half of a surrogate pair, "
                "which is no character: correct the text."
            )
        else:
            unique[key] = pair
    kept = {}
    for (prompt, chosen, rejected), pair in unique.items():
        if (prompt, rejected, chosen) in unique:
            counts["contradictions"] += 1
        else:
            kept[_digest(pair)] = pair
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


def _prompt_key(pair: PreferencePair) -> str:
    return json.dumps(pair.prompt, ensure_ascii=False)


def _digest(pair: PreferencePair) -> bytes:
    content = [pair.prompt, pair.chosen, pair.rejected, pair.group]
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
