"""Pairs that two axes label on the same prompts, with as much agreement as is asked for."""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from prefreg.axes.axis import Axis, PreferencePair, SourceRequest
from prefreg.axes.base_world import BaseWorld
from prefreg.axes.isolation import read_source
from prefreg.axes.row_sources import read_rows
from prefreg.data.pairs import PairSet, build_pairs, fingerprint_pairs, label_rows, measure_length
from prefreg.errors import DataError

LONGER_PREFERRED = "longer_was_human_preferred"
FEWEST = 20
"""Fewer pairs of either kind are not worth a training."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """Pairs as the first axis labels them, by whether the second one agrees.

    Where both lists are of the same prompts, in their order, so is every level of agreement.
    """

    agreeing: Sequence[PreferencePair]
    disagreeing: Sequence[PreferencePair]
    same_prompts: bool

    def at(self, rho: float, count: int, seed: int) -> dict[PreferencePair, bool]:
        """Draw `count` pairs whose labels agree with probability (1 + ρ)/2: pair to agreement."""
        draw = random.Random(f"correlation/{rho:g}/{seed}")
        wanted = round(count * (1 + rho) / 2)
        if self.same_prompts:
            chosen = set(draw.sample(range(count), wanted))
            pairs = [
                (self.agreeing[place], True)
                if place in chosen
                else (self.disagreeing[place], False)
                for place in range(count)
            ]
        else:
            pairs = [(pair, True) for pair in draw.sample(list(self.agreeing), wanted)]
            rest = draw.sample(list(self.disagreeing), count - wanted)
            pairs += [(pair, False) for pair in rest]
        return dict(pairs)

    def cut(self) -> tuple["Crossing", tuple[PairSet, PairSet]]:
        """Take a tenth of the groups out for measuring, labelled by each axis."""
        whole = dict.fromkeys(self.agreeing, True) | dict.fromkeys(self.disagreeing, False)
        held = set(build_pairs(whole, axis_name="held-out", seed=0).heldout)
        groups = {group_of(pair) for pair in held}

        def rest(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
            return [pair for pair in pairs if group_of(pair) not in groups]

        kept = {pair: agrees for pair, agrees in whole.items() if pair in held}
        sets = pair_sets(kept, ("first", "second"), 0)
        return Crossing(rest(self.agreeing), rest(self.disagreeing), self.same_prompts), sets

    @property
    def most(self) -> int:
        """Return the largest count that every level of agreement can have."""
        return min(len(self.agreeing), len(self.disagreeing))


def cross_world(
    world: BaseWorld, first: str, second: str, *, seed: int, limit: int | None
) -> Crossing:
    """Make pairs of a world, every level of agreement on the same prompts."""
    rows = list(world.crossed_rows(first, second, seed=seed, limit=limit))

    def pairs(which: str) -> list[PreferencePair]:
        return [
            PreferencePair.from_texts(
                prompt=row.prompt, chosen=answers[0], rejected=answers[1], group=row.group
            )
            for row in rows
            for answers in [getattr(row, which)]
        ]

    return Crossing(pairs("agreeing"), pairs("disagreeing"), True)


def cross_pack(path: Path, *, by_length: bool) -> Crossing:
    """Read pairs of which the longer answer is chosen, and whether people preferred it.

    The first axis is that of the length, or else that of the people.
    """
    agreeing: list[PreferencePair] = []
    disagreeing: list[PreferencePair] = []
    for _, row in read_rows(path):
        preferred = row.get(LONGER_PREFERRED)
        if isinstance(preferred, bool):
            pair = PreferencePair.from_row(row)
            if preferred:
                agreeing.append(pair)
            else:
                disagreeing.append(pair if by_length else pair.switched())
    return _natural(agreeing, disagreeing, f"{path} (column {LONGER_PREFERRED!r})")


def cross_source(first: Axis, second: Axis, *, limit: int | None, seed: int) -> Crossing:
    """Label the rows of the first axis's source by both rules; ties of either are left out."""
    name = next(iter(first.sources))
    rows = list(read_source(first, name, SourceRequest(limit, None, seed)).rows)
    agreeing, disagreeing = [], []
    for one, other in zip(label_rows(first, rows), label_rows(second, rows), strict=True):
        if one is None or other is None:
            continue
        if one == other:
            agreeing.append(one)
        elif one == other.switched():
            disagreeing.append(one)
    return _natural(agreeing, disagreeing, f"{name}, labelled by {first.name} and {second.name}")


def group_of(pair: PreferencePair) -> object:
    """Return what a pair may share with others."""
    return pair.prompt if pair.group is None else pair.group


def _natural(
    agreeing: list[PreferencePair], disagreeing: list[PreferencePair], where: str
) -> Crossing:
    if min(len(agreeing), len(disagreeing)) < FEWEST:
        raise DataError(
            f"{where}: {len(agreeing)} pairs agree and {len(disagreeing)} do not; at least "
            f"{FEWEST} of either are needed. Take other data or axes."
        )
    return Crossing(agreeing, disagreeing, False)


def pair_sets(
    chosen: dict[PreferencePair, bool], names: tuple[str, str], seed: int
) -> tuple[PairSet, PairSet]:
    """Make the pairs of both axes: the same prompts in the same order, the same ones held out."""
    first = build_pairs(chosen, axis_name=names[0], seed=seed)

    def relabelled(pairs: Iterable[PreferencePair]) -> tuple[PreferencePair, ...]:
        return tuple(pair if chosen[pair] else pair.switched() for pair in pairs)

    train, heldout = relabelled(first.train), relabelled(first.heldout)
    second = PairSet(
        train,
        heldout,
        fingerprint_pairs([*train, *heldout]),
        replace(first.audit, **asdict(measure_length([*train, *heldout]))),
    )
    return first, second


def write_pairs(pairs: PairSet, path: Path) -> Path:
    """Write all pairs of a set as a file that `add-axis --data` takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for pair in (*pairs.train, *pairs.heldout):
            file.write(json.dumps(pair.to_row(), ensure_ascii=False) + "\n")
    return path
