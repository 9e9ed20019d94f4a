"""A third party's base with a world of its own: everything asks that, and not pocket by name."""

import json
from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import prefreg
import worded
from prefreg import Axis, BundledBase, DataError, Message, PreferencePair, Row, Sampling
from prefreg.axes.base_world import BaseWorld, ChoiceQuestion, CrossedRow, Measure
from prefreg.checkpoints import resolve_base
from prefreg.checkpoints.bundled import BUNDLED, world_named, world_of
from prefreg.data.mixture import default_source
from prefreg.evaluation.demonstration import measure_behaviour, summarise
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import open_evaluator
from prefreg.evaluation.judge import judge
from prefreg.evaluation.paper.catalogue import experiment_axes
from prefreg.evaluation.paper.correlation import cross_world
from prefreg.evaluation.prompts import Asked, find_pairs, world_prompts
from prefreg.models.generation import refuses
from prefreg.terms import as_terms

COLOURS = {"boat": "red", "house": "blue", "tree": "green", "sky": "blue"}


class Known(NamedTuple):
    group: str
    safe: bool | None


class Said(NamedTuple):
    words: int
    malformed: bool
    refuses: bool
    correct: bool | None


class Garden(BaseWorld):
    """Four things, each of a colour; whether one is big is nobody's business."""

    name = "garden"
    kinds: Mapping[str, bool | None] = {"secret": False, "colour": True}
    measures: Mapping[str, Measure] = {
        "right": Measure(("colour",), lambda said: [] if said.correct is None else [said.correct]),
        "length": Measure(("colour", "secret"), lambda said: [said.words], share=False),
    }
    axes: Mapping[str, str] = {"tint": "right"}

    def prompts(self, kind: str, *, split: str, limit: int, seed: int) -> list[str]:
        frame = "what is the colour of the {} ?" if kind == "colour" else "is the {} big ?"
        return list(islice(cycle(frame.format(thing) for thing in COLOURS), limit))

    def recognise(self, prompt: str) -> Known | None:
        words = prompt.split()
        thing = next((word for word in words if word in COLOURS), None)
        return None if thing is None else Known(thing, words[0] == "what")

    def score(self, prompt: str, answer: str) -> Said:
        known = self.recognise(prompt)
        assert known is not None
        words = answer.split()
        stated = words[-1] if words and words[-1] in COLOURS.values() else None
        correct = None if stated is None else stated == COLOURS[known.group]
        return Said(len(words), not words, words == ["no"], correct)

    def rows(self, axis: str, *, split: str, seed: int, limit: int | None) -> Iterator[Row]:
        for thing, colour in islice(COLOURS.items(), limit):
            answers = {"chosen": f"it is {colour}", "rejected": "no"}
            yield {"prompt": f"what is the colour of a {split} {thing} ?", **answers}

    def kept_questions(self, count: int, *, split: str, seed: int) -> list[ChoiceQuestion]:
        return [
            ChoiceQuestion((Message("user", prompt),), ("red", "blue"), number % 2, "hues", prompt)
            for number, prompt in enumerate(self.prompts("colour", split=split, limit=4, seed=seed))
        ]

    def crossed_rows(
        self, first: str, second: str, *, seed: int, limit: int | None
    ) -> Iterator[CrossedRow]:
        yield CrossedRow("is the sky big ?", "sky", ("no", "yes"), ("yes", "no"))


GARDEN = Garden()


@pytest.fixture(autouse=True)
def garden(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bring a tiny base that knows the garden."""
    folder = worded.save(tmp_path_factory.mktemp("garden"))
    training = {"max_steps": 2, "per_device_train_batch_size": 4}
    defaults = {"training": training, "lora": 2, "sampling": {"temperature": 5.0, "top_p": 0.9}}
    base = BundledBase("garden", "Four things.", lambda: folder, world=GARDEN, **defaults)
    monkeypatch.setitem(BUNDLED, "garden", base)


def label(row: Row) -> PreferencePair:
    return PreferencePair.from_row(row)


def asked(text: str, safe: bool | None = True) -> Asked:
    return Asked((Message("user", text),), text, safe=safe)


def test_a_base_has_its_world_and_a_folder_has_none(tmp_path: Path) -> None:
    assert resolve_base("garden").world is GARDEN
    assert resolve_base(str(worded.save(tmp_path / "plain"))).world is None
    assert (world_of("garden"), world_of("org/garden")) == (GARDEN, None)
    assert (world_named("garden"), world_named("a garden")) == (GARDEN, None)
    pocket = resolve_base("pocket").world
    assert pocket is not None
    assert pocket.name == "pocket"


def test_prompts_are_of_every_kind_of_the_world() -> None:
    found = world_prompts(GARDEN, 5, split="test", seed=0)
    assert [(each.kind, each.safe, each.group) for each in found] == [
        ("secret", False, "secret/boat"),
        ("secret", False, "secret/house"),
        ("secret", False, "secret/tree"),
        ("colour", True, "colour/boat"),
        ("colour", True, "colour/house"),
    ]
    assert GARDEN.safe_prompts(split="dev", limit=1) == ["what is the colour of the boat ?"]


def test_answers_are_scored_by_the_world_that_knows_the_prompt() -> None:
    sky = asked("what is the colour of the sky ?")
    assert judge(sky, "it is blue").correct is True
    assert judge(sky, "it is red").correct is False
    assert judge(asked("is the sky big ?", safe=False), "no").refuses
    assert refuses("is the sky big ?", "no")
    assert not refuses("is the sun big ?", "no")
    assert judge(asked("what is the colour of the sun ?"), "it is red").correct is None


def test_a_source_of_the_worlds_name_is_the_default_on_its_base() -> None:
    sources = {name: lambda request: iter(()) for name in ("hub", "garden", "pocket")}
    axis = Axis(name="tint", summary="Colours.", sources=sources, label=label)
    found = {base: default_source(axis, base) for base in ("garden", "pocket", "org/model")}
    assert found == {"garden": "garden", "pocket": "pocket", "org/model": "hub"}


def test_pairs_are_the_worlds_rows_of_a_split_as_the_axis_labels_them() -> None:
    sources = {"hub": lambda request: iter(())}
    axis = Axis(name="tint", summary="Colours.", sources=sources, label=label)
    held = find_pairs(axis, None, "garden", EvaluationRequest(prompts=3, split="dev"))
    assert held.source == "garden, dev split"
    colours = [pair.chosen for pair in held.pairs]
    assert colours == ["it is red", "it is blue", "it is green"]


def test_figures_are_the_worlds_own() -> None:
    refusal = Said(1, False, True, None)
    answers = [Said(3, False, False, correct) for correct in (True, False, False)]
    found = summarise(GARDEN, {"colour": [*answers, refusal], "secret": [refusal]})
    assert (found["right"].value, found["right"].count) == (pytest.approx(1 / 3), 3)
    assert found["length"].value == pytest.approx(11 / 5)
    assert summarise(GARDEN, {"colour": [], "secret": [refusal] * 5})["right"] is None
    base = resolve_base("garden").path
    model = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    measured = measure_behaviour(model, tokenizer, GARDEN, prompts=4, max_new_tokens=8)
    assert set(measured) == {"right", "length"}


def test_experiments_are_about_the_worlds_axes() -> None:
    assert experiment_axes("grid", GARDEN) == ("tint",)
    assert experiment_axes("grid") == ("helpful", "harmless")
    crossing = cross_world(GARDEN, "tint", "size", seed=0, limit=None)
    assert [pair.chosen for pair in crossing.disagreeing] == [(Message("assistant", "yes"),)]


def test_what_a_world_does_not_offer_is_said() -> None:
    class Bare(Garden):
        rows, crossed_rows = BaseWorld.rows, BaseWorld.crossed_rows
        kept_questions = BaseWorld.kept_questions

    with pytest.raises(DataError, match="'tint'"):
        Bare().rows("tint", split="test", seed=0, limit=1)
    with pytest.raises(DataError, match="'tint' and 'size'"):
        Bare().crossed_rows("tint", "size", seed=0, limit=1)
    with pytest.raises(DataError, match="garden"):
        Bare().kept_questions(1, split="test", seed=0)


def test_an_axis_is_trained_and_measured_in_the_world(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"what is the colour of the {size} {thing} ?",
            "chosen": f"it is {colour}",
            "rejected": "no",
        }
        for thing, colour in COLOURS.items()
        for size in ("big", "old", "a big", "a old", "big old")
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    declared = "name: tint\nsummary: Colours.\nsources:\n- {name: other, file: none.jsonl}\n"
    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "tint.yaml").write_text(f"{declared}- {{name: garden, file: rows.jsonl}}\n")
    registry = prefreg.open(tmp_path / "registry.db")
    record = registry.add_axis(str(tmp_path / "tint.yaml"), base="garden", keep_anyway=True)
    assert record.metadata["training"]["settings"]["max_steps"] == 2
    assert (record.kind, record.metadata["training"]["lora"]["rank"]) == ("low-rank", 2)
    assert [part["source"] for part in record.metadata["data"]["sources"]] == ["garden"]
    request = EvaluationRequest(prompts=8, max_new_tokens=4, retention=("garden",))
    evaluator = open_evaluator(registry.access, as_terms(["tint:1"]), request)
    assert [each.text for each in evaluator.asked] == [
        f"{frame} {thing}{end} ?"
        for frame, end in (("is the", " big"), ("what is the colour of the", ""))
        for thing in COLOURS
    ]
    found = evaluator.evaluate(evaluator.candidate(as_terms(["tint:1"])))
    names = {figure.name for figure in found.figures.measured} | set(found.figures.missing)
    assert {"kl", "refuses_unsafe", "refuses_safe", "retention.hues"} <= names


def test_the_defaults_of_sampling_are_taken_once_sampling_is_asked_for(tmp_path: Path) -> None:
    model = prefreg.open(tmp_path / "registry.db").load("garden")
    prompts = [f"what is the colour of the {thing} ?" for thing in COLOURS] * 4

    def answers(sampling: Sampling | None = None, **options: float) -> list[str]:
        return model.generate(prompts, sampling, max_new_tokens=8, **options)

    drawn = answers(Sampling(temperature=5.0, top_p=0.9))
    greedy = answers()
    assert greedy == answers(Sampling()) == answers(temperature=0) == answers(seed=1)
    assert drawn == answers(temperature=5.0) == answers(top_p=0.9) != greedy
    assert answers(Sampling(temperature=5.0)) == answers(temperature=5.0, top_p=1.0) != drawn
