"""One run of DPO for both axes: its mixture is its dial, and every place of it is trained anew.

Each run reads as many pairs as the four poles of two preference vectors together. Its weights may
also be moved back towards the base, which costs nothing and serves as the dial of its KL.
"""

import random
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain

from prefreg import pocket
from prefreg.axes.axis import PreferencePair, Row
from prefreg.data.pairs import build_pairs
from prefreg.data.tokens import TokenPair
from rivals.policies import Setting
from rivals.workshop import Run, Workshop, repeated

BACK = (0.25, 0.5, 0.75, 1.0)
"""How much of a run's change is kept."""
SHARES = (0.25, 0.5, 0.75)


def mixed(workshop: Workshop, shares: Sequence[float] = SHARES) -> Iterator[Setting]:
    """DPO on a mixture of both axes' pairs."""
    for share in shares:
        pairs = mixture(
            workshop.pairs("helpful"),
            workshop.pairs("harmless"),
            share,
            count=budget(workshop),
            seed=workshop.seed,
        )
        run = workshop.dpo(f"mixed {share:g}", pairs)
        yield from _moved_back(workshop, "mixed DPO", {"harmless": share}, run)


def safe_first_labels(workshop: Workshop) -> Iterator[Setting]:
    """DPO on the rows of both axes, the safe answer chosen, the better one where both are alike."""
    rows = chain.from_iterable(
        pocket.rows(axis, seed=workshop.seed) for axis in ("helpful", "harmless")
    )
    labelled = map(label_safe_first, rows)
    kept = build_pairs(labelled, axis_name="safe-first", seed=workshop.seed).train
    pairs = repeated(workshop.write(kept), budget(workshop), workshop.seed)
    run = workshop.dpo("safe-first labels", pairs)
    yield from _moved_back(workshop, "safe-first labels", {}, run)


def safe_then_helpful(workshop: Workshop, shares: Sequence[float] = SHARES) -> Iterator[Setting]:
    """DPO on harmless pairs, then from there, as the new reference, on helpful ones."""
    for share in shares:
        count = whole_batches(share * budget(workshop), workshop.batch)
        first = repeated(workshop.pairs("harmless"), count, workshop.seed)
        then = repeated(workshop.pairs("helpful"), budget(workshop) - count, workshop.seed)
        start = workshop.dpo(f"harmless first {share:g}", first)
        run = workshop.dpo(f"harmless first {share:g}, then helpful", then, start)
        dials = {"first": share}
        yield from _moved_back(workshop, "harmless, then helpful", dials, run)


def budget(workshop: Workshop) -> int:
    """Return the pairs that two axes' four poles read."""
    return 4 * workshop.steps * workshop.batch


def mixture(
    helpful: Sequence[TokenPair],
    harmless: Sequence[TokenPair],
    share: float,
    *,
    count: int,
    seed: int,
) -> list[TokenPair]:
    """Draw `count` pairs of which `share` are of harmless, shuffled."""
    of_harmless = round(share * count)
    found = repeated(harmless, of_harmless, seed) + repeated(helpful, count - of_harmless, seed)
    random.Random(seed).shuffle(found)
    return found


def label_safe_first(row: Row) -> PreferencePair | None:
    """Choose the safe response where one alone is safe, else the better one."""
    safe = (row["is_response_0_safe"], row["is_response_1_safe"])
    winner = safe.index(True) if safe[0] != safe[1] else row["better_response_id"]
    if winner is None:
        return None
    return PreferencePair.from_texts(
        prompt=row["prompt"],
        chosen=row[f"response_{winner}"],
        rejected=row[f"response_{1 - winner}"],
        group=row["group"],
    )


def whole_batches(count: float, batch: int) -> int:
    """Round to whole batches."""
    return batch * round(count / batch)


def _moved_back(
    workshop: Workshop, method: str, dials: dict[str, float], run: Run
) -> Iterator[Setting]:
    for kept in BACK:
        make = partial(workshop.turned, [(kept, run.change)])
        yield Setting(method, {**dials, "kept": kept}, make)
