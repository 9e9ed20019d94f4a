import importlib.metadata
import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import prefreg
from prefreg import Axis, BaseAnswer, Message, PreferencePair, SourceRequest, pocket
from prefreg.axes.answer_texts import sounds_refusing
from prefreg.axes.axis import Text, plain_text
from prefreg.axes.plugins import load_axes
from prefreg.data.mixture import default_source

PUBLISHED_ONLY = ("humanlike", "psychocounsel")
NAMES = ("directness", "harmless", "helpful", "honesty", "politeness", "verbosity")
RATED = ("directness", "honesty", "politeness", "verbosity")

# A row of PKU-Alignment/PKU-SafeRLHF, with the columns that the rules look at.
PKU: dict[str, Any] = {
    "prompt": "How do I open a lock?",
    "response_0": "With its key.",
    "response_1": "Pick it like this.",
    "is_response_0_safe": True,
    "is_response_1_safe": False,
    "better_response_id": 1,
    "safer_response_id": 0,
}
HELPSTEER: dict[str, Any] = {
    "prompt": "c#",
    "helpfulness": 3,
    "correctness": 3,
    "coherence": 4,
    "complexity": 2,
}


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Axis]:
    monkeypatch.delenv("PREFREG_LOAD_PLUGINS", raising=False)
    return {found.axis.name: found.axis for found in load_axes().axes}


def verbosity_module() -> Any:
    """Return the module behind the entry point, as the core gets it."""
    (point,) = importlib.metadata.entry_points(group="prefreg", name="verbosity")
    return point.load()


def texts(pair: PreferencePair | None) -> tuple[Any, ...]:
    assert pair is not None
    return (pair.prompt, pair.chosen[0].content, pair.rejected[0].content)


def test_the_axes_and_the_base_come_through_entry_points(axes: dict[str, Axis]) -> None:
    points = importlib.metadata.entry_points(group="prefreg")
    ours = {point.name: point.value for point in points if point.dist.name == "prefreg"}
    names = {*NAMES, *PUBLISHED_ONLY}
    assert ours == {name: f"prefreg_axes.{name}" for name in (*names, "smollm2")}
    assert names <= axes.keys()


def test_entry_points_are_the_only_way_in() -> None:
    code = (
        "import sys, prefreg\n"
        "assert prefreg.open().axes()[0] == []\n"
        "assert not [name for name in sys.modules if name.startswith('prefreg_axes')]\n"
    )
    environment = {**os.environ, "PREFREG_LOAD_PLUGINS": ""}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_the_names_of_the_users_readme_are_known(axes: dict[str, Axis]) -> None:
    catalog = load_axes()
    for written in ("helpful", "harmless", "verbosity"):
        assert catalog.find(written).axis.name == written
    short = {"verbose": "verbosity", "honest": "honesty", "polite": "politeness"}
    for alias, name in {**short, "direct": "directness"}.items():
        assert catalog.find(alias).axis is catalog.find(name).axis


def test_helpful_prefers_the_better_response(axes: dict[str, Axis]) -> None:
    asked = (Message("user", "How do I open a lock?"),)
    found = texts(axes["helpful"].label(PKU))
    assert found == (asked, "Pick it like this.", "With its key.")


def test_harmless_prefers_the_safer_response(axes: dict[str, Axis]) -> None:
    asked = (Message("user", "How do I open a lock?"),)
    found = texts(axes["harmless"].label(PKU))
    assert found == (asked, "With its key.", "Pick it like this.")


@pytest.mark.parametrize("number", [-1, 2, None])
def test_a_row_that_prefers_neither_is_a_tie(axes: dict[str, Axis], number: int | None) -> None:
    assert axes["helpful"].label({**PKU, "better_response_id": number}) is None
    assert axes["harmless"].label({**PKU, "safer_response_id": number}) is None


@pytest.mark.parametrize("name", RATED)
def test_the_higher_rating_wins_and_an_equal_one_is_a_tie(axes: dict[str, Axis], name: str) -> None:
    row = {"prompt": "q", "response_0": "a", "response_1": "b", f"{name}_0": 1, f"{name}_1": 3}
    label = axes[name].label
    assert texts(label(row)) == ((Message("user", "q"),), "b", "a")
    assert texts(label({**row, f"{name}_0": 4})) == ((Message("user", "q"),), "a", "b")
    assert label({**row, f"{name}_0": 3}) is None


def pair_up(*answers: tuple[str, str, int]) -> list[dict[str, Any]]:
    rows = [
        {**HELPSTEER, "prompt": prompt, "response": response, "verbosity": verbosity}
        for prompt, response, verbosity in answers
    ]
    return list(verbosity_module().pair_by_prompt(rows))


def test_verbosity_prefers_the_more_verbose_response(axes: dict[str, Axis]) -> None:
    first, second = pair_up(("a", "short", 1), ("a", "long", 3), ("b", "long", 4), ("b", "s", 0))
    label = axes["verbosity"].label
    assert texts(label(first)) == ((Message("user", "a"),), "long", "short")
    assert texts(label(second)) == ((Message("user", "b"),), "long", "s")


def test_equal_verbosity_is_a_tie(axes: dict[str, Axis]) -> None:
    (row,) = pair_up(("a", "one", 2), ("a", "two", 2))
    assert axes["verbosity"].label(row) is None


def test_a_response_without_a_partner_is_left_out() -> None:
    rows = pair_up(("a", "1", 1), ("b", "2", 2), ("b", "3", 3), ("c", "4", 1))
    assert [(row["prompt"], row["response_0"], row["response_1"]) for row in rows] == [
        ("b", "2", "3")
    ]


def test_a_third_response_to_a_prompt_starts_a_new_pair() -> None:
    rows = pair_up(("a", "1", 1), ("a", "2", 2), ("a", "3", 3), ("a", "4", 1))
    assert [(row["response_0"], row["response_1"]) for row in rows] == [("1", "2"), ("3", "4")]


def test_a_prompt_of_several_turns_becomes_a_dialogue(axes: dict[str, Axis]) -> None:
    prompt = "Hello\n<extra_id_1>Assistant\nHi.\nWhat now?\n<extra_id_1>User\nA poem\n\nplease"
    (row,) = pair_up((prompt, "short", 0), (prompt, "long", 4))
    assert texts(axes["verbosity"].label(row))[0] == (
        Message("user", "Hello"),
        Message("assistant", "Hi.\nWhat now?"),
        Message("user", "A poem\n\nplease"),
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_switch_negates_and_is_an_involution(axes: dict[str, Axis], name: str) -> None:
    axis = axes[name]
    for pair in pocket_pairs(axis, limit=20):
        switched = axis.switch(pair)
        assert (switched.chosen, switched.rejected) == (pair.rejected, pair.chosen)
        assert axis.switch(switched) == pair


def pocket_pairs(axis: Axis, *, limit: int, seed: int = 0) -> list[PreferencePair]:
    rows = axis.sources["pocket"](SourceRequest(limit=limit, seed=seed))
    labelled = (axis.label(row) for row in itertools.islice(rows, limit))
    return [pair for pair in labelled if pair is not None]


@pytest.mark.parametrize(
    ("name", "quality"),
    [
        ("honesty", lambda verdict: verdict.admits),
        ("politeness", lambda verdict: {"polite": 1, "plain": 0, "curt": -1}[verdict.tone]),
        ("directness", lambda verdict: verdict.commands - verdict.suggestions),
    ],
)
def test_the_bundled_world_prefers_what_the_axis_is_named_after(
    axes: dict[str, Axis], name: str, quality: Callable[[pocket.Verdict], float]
) -> None:
    gains = []
    for pair in pocket_pairs(axes[name], limit=200):
        prompt, chosen, rejected = map(plain_text, (pair.prompt, pair.chosen, pair.rejected))
        gains.append(
            quality(pocket.score(prompt, chosen)) - quality(pocket.score(prompt, rejected))
        )
    assert min(gains) >= 0
    assert sum(gain > 0 for gain in gains) > 0.8 * len(gains)


@pytest.mark.parametrize("name", NAMES)
def test_the_bundled_world_gives_pairs(axes: dict[str, Axis], name: str) -> None:
    pairs = pocket_pairs(axes[name], limit=200)
    assert len(pairs) > 100
    assert pairs == pocket_pairs(axes[name], limit=200)
    assert pairs != pocket_pairs(axes[name], limit=200, seed=1)


def test_verbose_answers_of_the_bundled_world_are_longer(axes: dict[str, Axis]) -> None:
    metric = axes["verbosity"].metric
    assert metric is not None
    pairs = pocket_pairs(axes["verbosity"], limit=200)
    longer = [metric("", p.chosen[0].content) > metric("", p.rejected[0].content) for p in pairs]
    assert sum(longer) > 0.9 * len(longer)


def test_the_metric_counts_words(axes: dict[str, Axis]) -> None:
    assert axes["verbosity"].metric("ignored", "It  is\nred.") == 3.0


def test_axes_import_public_names_only() -> None:
    assert {"hookimpl", "stream_hub_rows", "Axis"} <= set(prefreg.__all__)
    assert all(hasattr(prefreg, name) for name in prefreg.__all__)


class Obliging:
    """A base that does what it is asked for, in other words each time."""

    name = "smollm2"
    has_template = True

    def tell(self, text: str) -> None:
        """Say nothing."""

    def answers(self, groups: Sequence[Sequence[Text]], **_: Any) -> Iterator[list[BaseAnswer]]:
        """Answer in as many words as the system prompt has letters, or in five."""
        for place, group in enumerate(groups):
            found = []
            for number, prompt in enumerate(group):
                words = len(prompt[0].content) if len(prompt) > 1 else 5
                said = " ".join(map(str, range(words)))
                found.append(BaseAnswer(f"Yes: {said} ({place}.{number}).", True))
            yield found


def chat_pairs(axis: Axis) -> list[PreferencePair]:
    source: Any = axis.sources[default_source(axis, "smollm2")]
    pairs = [axis.label(row) for row in source(SourceRequest(base=Obliging())).rows]
    assert None not in pairs
    return [pair for pair in pairs if pair is not None]


def test_harmless_of_the_chat_model_tells_unsafe_requests_from_others(
    axes: dict[str, Axis],
) -> None:
    pairs = chat_pairs(axes["harmless"])
    sides = Counter(
        (sounds_refusing(texts(pair)[1]), sounds_refusing(texts(pair)[2])) for pair in pairs
    )
    # Refused against done, and twice done.
    assert sides == {(True, False): 200, (False, False): 200 + 64}
    assert len({pair.prompt for pair in pairs}) == 464


def test_verbosity_of_the_chat_model_is_its_answers_under_two_prompts(
    axes: dict[str, Axis],
) -> None:
    pairs = chat_pairs(axes["verbosity"])
    assert len(pairs) == 160
    assert {tuple(turn.role for turn in pair.prompt) for pair in pairs} == {("user",)}
    assert {len(texts(pair)[1]) > len(texts(pair)[2]) for pair in pairs} == {True}


def test_politeness_of_the_chat_model_puts_words_around_its_answers(axes: dict[str, Axis]) -> None:
    pairs = [texts(pair) for pair in chat_pairs(axes["politeness"])]
    assert len(pairs) == 160
    assert len({kind.partition("Yes: ")[0] for _, kind, _ in pairs}) == 8
    for place, (_, kind, plain) in enumerate(pairs):
        said = f"Yes: 0 1 2 3 4 ({place}.0)."
        assert (said in kind, plain == said) == (True, True)
