"""Checks of preference pairs: texts, switch, repetitions, splits, lengths, metric."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from prefreg.axes import Axis, PreferencePair, Text, plain_text
from prefreg.containment import measure, switch_pair
from prefreg.data.audit import Audit
from prefreg.data.files import encodable
from prefreg.data.pairs import PairSet
from prefreg.errors import DataError
from prefreg.testing.report import Finding, failed, passed, warned

_FIELDS = ("prompt", "chosen", "rejected")
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
            f"but for case and spaces, as {_excerpt(shared[0])}: {advice}",
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


def _excerpt(pair: PreferencePair) -> str:
    return repr(plain_text(pair.prompt)[:60])
