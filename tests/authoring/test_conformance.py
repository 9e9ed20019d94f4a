"""What the conformance kit finds in good and in broken axes."""

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from prefreg import Axis, DataError, PreferencePair, Row, SourceRequest, UsageError
from prefreg.authoring.conformance import assert_conforms, check_axis
from prefreg.authoring.pair_checks import AxisCheck

GREETINGS = [
    ("a neighbour", "Good day to you, dear neighbour.", "Hey you there!"),
    ("a judge", "Good morning, your honour.", "Hey judge, what now?"),
    ("a guest", "Welcome, and good evening to you.", "Hey, come on in!"),
    ("a friend", "Good day to you, my dear friend.", "Hey, what now?"),
]
ROWS: list[Row] = [
    {"prompt": f"Greet {whom} number {n}.", "formal": formal, "casual": f"{casual} {n}"}
    for n, (whom, formal, casual) in enumerate(itertools.islice(itertools.cycle(GREETINGS), 60))
]


def load(request: SourceRequest) -> list[Row]:
    """Greet sixty people, formally and casually, in an order of the seed's."""
    rows = list(ROWS)
    random.Random(request.seed).shuffle(rows)
    return rows[: request.limit]


def label(row: Row) -> PreferencePair | None:
    return PreferencePair.from_texts(
        prompt=row["prompt"], chosen=row["formal"], rejected=row["casual"]
    )


FORMALITY = Axis(
    name="formality", summary="Formal wording.", sources={"built-in": load}, label=label
)


def check(**changes: Any) -> AxisCheck:
    return check_axis(replace(FORMALITY, **changes), train=False)


def check_rows(source: Callable[[SourceRequest], Any]) -> AxisCheck:
    return check(sources={"built-in": source})


def finding(report: AxisCheck, name: str) -> tuple[str, str]:
    (found,) = (finding for finding in report.findings if finding.check == name)
    return found.status, found.message


def test_a_sound_axis_passes_every_check() -> None:
    report = check()
    assert report.passed
    assert [(found.check, found.status) for found in report.findings] == [
        ("rows", "passed"),
        ("limit", "passed"),
        ("columns", "passed"),
        ("determinism", "passed"),
        ("ties", "passed"),
        ("texts", "passed"),
        ("encoding", "passed"),
        ("switch", "passed"),
        ("duplicates", "passed"),
        ("identical", "passed"),
        ("contradictions", "passed"),
        ("leaks", "passed"),
        ("length", "passed"),
        ("tokens", "passed"),
    ]
    assert finding(report, "rows") == ("passed", "60 rows")
    assert report.audit is not None
    assert (report.audit.train, report.audit.heldout) == (54, 6)
    assert len(report.preview) == 3


def test_ten_steps_move_the_margin_both_ways_in_words_that_the_model_does_not_know() -> None:
    foreign = {"Good": "Guten", "Hey": "He", "you": "euch", "what": "was", "now": "jetzt"}

    def translated(request: SourceRequest) -> list[Row]:
        def translate(text: str) -> str:
            return " ".join(foreign.get(word, word + "q") for word in text.split())

        return [{name: translate(text) for name, text in row.items()} for row in load(request)]

    report = check_axis(replace(FORMALITY, sources={"built-in": translated}))
    status, message = finding(report, "smoke")
    assert status == "passed", str(report)
    assert "6 held-out pairs moved by +" in message
    assert " for the positive pole and by -" in message
    assert "of the words stood for ones that pocket does not know" in message


def test_labels_by_chance_do_not_pass_the_smoke_run() -> None:
    def by_chance(row: Row) -> PreferencePair:
        pair = PreferencePair.from_texts(
            prompt=row["prompt"], chosen="It is red.", rejected="It is blue."
        )
        return pair if random.Random(row["prompt"]).random() < 0.5 else pair.switched()

    rows = [{"prompt": f"What colour is boat {n}?"} for n in range(250)]
    axis = Axis(
        name="chance", summary="", sources={"x": lambda r: rows[: r.limit]}, label=by_chance
    )
    status, message = finding(check_axis(axis), "smoke")
    assert status == "failed"
    assert "check the label rule" in message or "check the label and the switch" in message


def test_few_pairs_are_no_proof_either_way() -> None:
    rows = ROWS[:4]
    axis = replace(FORMALITY, sources={"built-in": lambda r: rows[: r.limit]})
    report = check_axis(axis)
    assert report.passed, str(report)
    assert finding(report, "leaks")[0] == "warned"
    assert "4 training pairs" in finding(report, "smoke")[1]


def once() -> Callable[[SourceRequest], Any]:
    """Make a source that gives its rows to the first who asks."""
    rows = iter(ROWS)
    return lambda request: rows


@pytest.mark.parametrize(
    ("source", "name", "status", "told"),
    [
        (lambda r: [], "rows", "failed", "the source 'built-in' gives no rows"),
        (lambda r: None, "rows", "failed", "it returned a NoneType, not rows"),
        (lambda r: ["text"], "label", "failed", "Row 1 of axis 'formality' is a str"),
        (lambda r: [{"x": 1}], "label", "failed", "failed on row 1 (columns: x): KeyError"),
        (lambda r: ROWS, "limit", "failed", "asked for 30 rows it gives more"),
        (lambda r: itertools.repeat(ROWS[0]), "limit", "failed", "asked for 250 rows"),
        (
            lambda r: [*ROWS[:3], {**ROWS[3], "extra": 1}][: r.limit],
            "columns",
            "warned",
            "rows 1 and 4 differ in extra",
        ),
        (lambda r: [{**ROWS[0], "a\n\udc00": 1}], "columns", "passed", "prompt, formal, casual, a"),
        (lambda r: [{**ROWS[0], 7: 1}], "columns", "failed", "row 1 has a column 7"),
        (
            lambda r: random.sample(ROWS, len(ROWS))[: r.limit],
            "determinism",
            "failed",
            "draw from random.Random(request.seed)",
        ),
        (once(), "determinism", "failed", "gave 60 rows, then 0"),
    ],
)
def test_what_is_wrong_with_a_source_is_found(
    source: Callable[[SourceRequest], Any], name: str, status: str, told: str
) -> None:
    found = finding(check_rows(source), name)
    assert found[0] == status
    assert told in found[1]


def test_a_label_by_the_state_of_the_program_is_found() -> None:
    calls = itertools.count()

    def moody(row: Row) -> PreferencePair | None:
        return None if next(calls) == 70 else label(row)

    status, message = finding(check(label=moody), "determinism")
    assert (status, message.split(":")[0]) == (
        "failed",
        "row 11 is labelled differently the second time",
    )


def test_a_rule_that_never_decides_is_found_and_ends_the_check() -> None:
    report = check(label=lambda row: None)
    assert not report.passed
    assert report.findings[-1].message == "the label rule never decides: all 60 rows are ties"


@pytest.mark.parametrize(
    ("change", "name", "status", "told"),
    [
        (lambda p, n: p if n % 3 == 0 else None, "ties", "warned", "66.7% of the rows are ties"),
        (
            lambda p, n: replace(p, chosen=(p.chosen[0]._replace(content=" "),)),
            "texts",
            "failed",
            "pair 1 has an empty chosen text",
        ),
        (
            lambda p, n: replace(p, chosen=(p.chosen[0]._replace(content="\udc00"),)),
            "encoding",
            "failed",
            "pair 1 holds half of a surrogate pair",
        ),
        (
            lambda p, n: replace(p, chosen=(p.chosen[0]._replace(content=f"SchÃ¶n {n}"),)),
            "encoding",
            "warned",
            "60 pairs look as if they were decoded wrongly",
        ),
        (
            lambda p, n: PreferencePair(str(n // 2), "yes", "no"),
            "duplicates",
            "warned",
            "30 of 60 pairs repeat an earlier one",
        ),
        (
            lambda p, n: PreferencePair(str(n // 6), "yes", "no"),
            "duplicates",
            "failed",
            "50 of 60 pairs repeat an earlier one",
        ),
        (
            lambda p, n: p if n % 6 else replace(p, chosen=p.rejected),
            "identical",
            "warned",
            "10 of 60 pairs have two equal answers",
        ),
        (
            lambda p, n: p if n > 1 else PreferencePair("p", *(["a", "b"] if n else ["b", "a"])),
            "contradictions",
            "warned",
            "2 of 60 pairs also occur in the opposite order",
        ),
        (
            lambda p, n: PreferencePair(str(n // 2), *(["a", "b"] if n % 2 else ["b", "a"])),
            "pairs",
            "failed",
            "has nothing to train on: of 60 rows, 60 contradicting one another",
        ),
        (
            lambda p, n: replace(p, prompt=(p.prompt[0]._replace(content="Hi."),), group=str(n)),
            "leaks",
            "failed",
            "held-out pairs have a prompt that is trained on",
        ),
        (
            lambda p, n: p if n > 1 else replace(p, prompt=label(ROWS[0]).prompt, group=str(n)),
            "leaks",
            "warned",
            "1 prompts stand in several groups",
        ),
        (
            lambda p, n: PreferencePair.from_texts(
                prompt=f"{n}", chosen="a " * (n + 2), rejected="b"
            ),
            "length",
            "warned",
            "the vector will mean 'longer', too",
        ),
        (
            lambda p, n: PreferencePair(f"{n} " * 200, "yes", "no"),
            "tokens",
            "warned",
            "pocket cannot write these pairs",
        ),
    ],
)
def test_what_is_wrong_with_labels_is_found(
    change: Callable[[PreferencePair, int], PreferencePair | None],
    name: str,
    status: str,
    told: str,
) -> None:
    ordered = replace(FORMALITY, sources={"built-in": lambda r: ROWS[: r.limit]})

    def changed(row: Row) -> PreferencePair | None:
        pair = label(row)
        assert pair is not None
        return change(pair, ROWS.index(row))

    found = finding(check_axis(replace(ordered, label=changed), train=False), name)
    assert found[0] == status
    assert told in found[1]


@pytest.mark.parametrize(
    ("switch", "status", "told"),
    [
        (lambda p: p, "failed", "pair 1 keeps its chosen answer"),
        (lambda p: None, "failed", "returned a NoneType for pair 1"),
        (lambda p: p.nothing, "failed", "failed on pair 1: AttributeError"),
        (
            lambda p: replace(p.switched(), group="lost"),
            "failed",
            "switched twice, pair 1 does not come back: another group",
        ),
        (
            lambda p: replace(
                p.switched(), prompt=tuple(m._replace(content=m.content[::-1]) for m in p.prompt)
            ),
            "warned",
            "60 pairs are changed by more than an exchange",
        ),
    ],
)
def test_a_switch_that_is_none_is_found(
    switch: Callable[[PreferencePair], Any], status: str, told: str
) -> None:
    found = finding(check(switch=switch), "switch")
    assert found[0] == status
    assert told in found[1]


@pytest.mark.parametrize(
    ("metric", "status", "told"),
    [
        (lambda prompt, answer: "Good" in answer, "passed", "scores higher in"),
        (lambda prompt, answer: -len(answer), "warned", "it should grow along the axis"),
        (lambda prompt, answer: float("inf"), "failed", "it returned inf, not a finite number"),
        (lambda prompt, answer: "7", "failed", "it returned '7', not a finite number"),
        (lambda prompt, answer: answer / 2, "failed", "failed on the prompt"),
    ],
)
def test_a_metric_is_finite_and_grows_along_the_axis(
    metric: Callable[[str, str], Any], status: str, told: str
) -> None:
    found = finding(check(metric=metric), "metric")
    assert found[0] == status
    assert told in found[1]


def test_the_bundled_world_is_the_default_source() -> None:
    sources = {"hub": lambda r: ROWS[: r.limit], "pocket": load}
    assert check(sources=sources).source == "pocket"
    report = check_axis(replace(FORMALITY, sources=sources), "hub", limit=20, seed=3, train=False)
    assert (report.source, report.rows, report.seed) == ("hub", 20, 3)


def test_a_source_that_is_not_there_and_no_row_are_refused() -> None:
    with pytest.raises(DataError, match="'formality' has no source 'hub': it has built-in"):
        check_axis(FORMALITY, "hub")
    with pytest.raises(UsageError, match="limit of 0"):
        check_axis(FORMALITY, limit=0)


def test_an_assertion_holds_the_report() -> None:
    assert_conforms(FORMALITY, train=False)
    with pytest.raises(AssertionError) as caught:
        assert_conforms(replace(FORMALITY, switch=lambda p: p), train=False)
    assert "failed  switch" in str(caught.value)
    assert "It does not conform: " in str(caught.value)


def test_a_report_can_be_read_by_people_and_programs() -> None:
    report = check()
    lines = str(report).splitlines()
    assert lines[0] == "Axis formality: 60 rows of 'built-in', seed 0"
    assert lines[2] == "passed  rows            60 rows"
    assert "It conforms: 14 passed." in lines
    assert lines[-1].startswith("  rejected <unk>")
    data = json.loads(json.dumps(report.to_json()))
    assert data["passed"] is True
    assert data["findings"][0] == {"check": "rows", "status": "passed", "message": "60 rows"}
    assert data["audit"]["pairs"] == 60
    assert {token["role"] for token in data["preview"][0]} == {"prompt", "chosen", "rejected"}
