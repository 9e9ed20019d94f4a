"""What the chat template is told in training is told wherever its version is measured and used."""

import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import prefreg
import worded
from prefreg.composition.resolve import trained_options
from prefreg.errors import UsageError
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import Evaluator, open_evaluator
from prefreg.registry import Access, VersionRecord
from prefreg.terms import Term
from prefreg.training.add_axis import prepare
from prefreg.training.axis_request import AxisRequest
from prefreg.training.axis_run import find_same
from prefreg.training.heldout import heldout_pairs

TEMPLATE = (
    "{% if mood is defined %}{{ mood }} {% endif %}{{ strftime_now('%d') }} " + worded.TEMPLATE
)
TODAY = datetime.date.today().isoformat()
ROWS = [
    {
        "prompt": [{"role": "user", "content": f"is the {word} {thing}"}],
        "chosen": [{"role": "assistant", "content": "it is red"}],
        "rejected": [{"role": "assistant", "content": f"a {word}"}],
    }
    for word in worded.WORDS
    for thing in ("boat", "house")
]
ROWS[0] |= {"chat_template_kwargs": {"mood": "old"}}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def request(folder: Path, mood: str = "red") -> AxisRequest:
    return AxisRequest(
        "verbosity",
        base=str(folder / "base"),
        data=str(folder / "pairs.jsonl"),
        template_options=(f"mood={mood}",),
        settings=("max_steps=2", "per_device_train_batch_size=4", "gradient_accumulation_steps=1"),
        keep_anyway=True,
        answers=4,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a version that was trained in a mood."""
    made = tmp_path_factory.mktemp("moods")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFREG_CACHE", str(made / "cache"))
        worded.save(made / "base", template=TEMPLATE)
        write(made / "pairs.jsonl", ROWS)
        prefreg.open(made / "registry.db").add_axis(request(made))
    return made


@pytest.fixture
def record(folder: Path) -> VersionRecord:
    return prefreg.open(folder / "registry.db").show("verbosity")


def opened(folder: Path, **options: Any) -> Evaluator:
    terms = [Term("verbosity", 1.0)]
    return open_evaluator(Access(folder / "registry.db"), terms, EvaluationRequest(**options))


def test_the_options_and_the_day_are_recorded(record: VersionRecord) -> None:
    assert record.metadata["training"]["template_options"] == {
        "mood": "red",
        "strftime_now": TODAY,
    }


def test_held_out_pairs_are_told_what_the_run_told(record: VersionRecord) -> None:
    told = {json.loads(pair.template_options)["mood"] for pair in heldout_pairs(record)}
    assert "red" in told
    assert told <= {"red", "old"}


def test_the_same_run_is_found_again_and_one_told_otherwise_is_not(folder: Path) -> None:
    place = Access(folder / "registry.db")
    assert find_same(place, prepare(place, request(folder))) is not None
    assert find_same(place, prepare(place, request(folder, "blue"))) is None


@pytest.mark.parametrize(("asked", "mood"), [((), "red"), (("mood=blue",), "blue")])
def test_what_is_measured_is_told_the_same_unless_asked_otherwise(
    folder: Path, tmp_path: Path, asked: tuple[str, ...], mood: str
) -> None:
    questions = write(tmp_path / "asked.jsonl", [{"prompt": "is it big"}, *ROWS[:1]])
    for evaluator in (
        opened(folder, template_options=asked),
        opened(folder, template_options=asked, data=(str(folder / "pairs.jsonl"),)),
        opened(folder, template_options=asked, prompts_file=questions),
    ):
        moods = [json.loads(each.told[1])["mood"] for each in evaluator.asked]
        assert set(moods) <= {mood, "old"}
        assert mood in moods
        first = evaluator.tokens("verbosity").pairs[-1].prompt_ids
        assert evaluator.tokenizer.decode(first.tolist()).startswith(f"{mood} ")


def test_an_answer_is_generated_in_the_mood_of_the_training(
    folder: Path, record: VersionRecord
) -> None:
    model = prefreg.open(folder / "registry.db").load(terms={"verbosity": 1})
    drawn: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 12}
    told = record.metadata["training"]["template_options"]
    found = model.generate("is it big", **drawn)
    assert model.generate("is it big", template_options=told, **drawn) == found
    assert model.generate("is it big", template_options={"mood": "blue"}, **drawn) != found
    with pytest.raises(UsageError, match=r"reads no option 'moody'\. Did you mean 'mood'"):
        model.generate("is it big", template_options={"moody": "blue"})
    with pytest.raises(UsageError, match="reads no option 'moody'"):
        opened(folder, template_options=("moody=red",))


def told_of(record: VersionRecord, **options: Any) -> VersionRecord:
    training = record.metadata["training"] | {"template_options": options}
    return replace(record, metadata=record.metadata | {"training": training})


def test_versions_that_were_told_otherwise_are_an_error_and_of_days_the_latest_counts(
    record: VersionRecord,
) -> None:
    earlier = told_of(record, mood="red", strftime_now="2001-02-03")
    assert trained_options([earlier, record]) == {"mood": "red", "strftime_now": TODAY}
    assert trained_options([earlier]) == {"mood": "red", "strftime_now": "2001-02-03"}
    assert trained_options([]) == {}
    with pytest.raises(UsageError, match=r'told \{"mood": "red"\} for verbosity@1, and \{\} for'):
        trained_options([record, told_of(record)])


def test_strings_are_told_nothing(folder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "is it ", "chosen": "red", "rejected": f"{word} it"} for word in "abcdefgh"]
    given = request(folder)
    strings = write(tmp_path / "strings.jsonl", rows)
    registry = prefreg.open(tmp_path / "registry.db")
    with pytest.raises(UsageError, match="`template_options=` is for messages, and the rows are"):
        registry.preview_axis(given, data=str(strings))
    shown = registry.preview_axis(given, data=str(strings), template_options=())
    assert shown.template_options == {}


def test_a_preview_shows_what_the_template_is_told(folder: Path, tmp_path: Path) -> None:
    registry = prefreg.open(tmp_path / "registry.db")
    shown = registry.preview_axis(request(folder))
    assert shown.template_options == {"mood": "red", "strftime_now": TODAY}
    assert shown.notes[-1] == (
        f"The chat template tells the day: it is {TODAY} in training and in measuring."
    )
    prompts = ["".join(t.text for t in each if t.role == "prompt") for each in shown.examples]
    assert all(text.startswith(("red ", "old ")) for text in prompts)
    with pytest.raises(UsageError, match=r"own setting: `template_options=` tells it to"):
        registry.preview_axis(request(folder), settings={"chat_template_kwargs": {}})
