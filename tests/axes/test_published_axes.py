"""The axes on published data sets, on small rows of the columns that are published."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest

from prefreg import Axis, DataError, Message, PreferencePair, SourceRequest, SourceRows
from prefreg.axes.axis import plain_text
from prefreg.axes.plugins import load_axes

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def pku(prompt: str, *, better: int, safer: int) -> dict[str, Any]:
    """Make a row of PKU-Alignment/PKU-SafeRLHF."""
    harms = dict.fromkeys(("Privacy Violation", "Cybercrime", "Violence"), False)
    return {
        "prompt": prompt,
        "response_0": "With its key.",
        "response_1": "Pick it like this.",
        "prompt_source": "village",
        "response_0_source": "Alpaca-7B",
        "response_1_source": "Alpaca-7B",
        "is_response_0_safe": True,
        "is_response_1_safe": False,
        "response_0_harm_category": harms,
        "response_1_harm_category": {**harms, "Cybercrime": True},
        "response_0_severity_level": 0,
        "response_1_severity_level": 2,
        "better_response_id": better,
        "safer_response_id": safer,
        "response_0_sha256": "0" * 64,
        "response_1_sha256": "1" * 64,
    }


def helpsteer2(prompt: str, response: str, verbosity: int) -> dict[str, Any]:
    """Make a row of nvidia/HelpSteer2."""
    return {
        "prompt": prompt,
        "response": response,
        "helpfulness": 3,
        "correctness": 3,
        "coherence": 4,
        "complexity": 2,
        "verbosity": verbosity,
    }


def ultrafeedback(instruction: str, *ratings: str) -> dict[str, Any]:
    """Make a row of openbmb/UltraFeedback, whose n-th completion has the n-th honesty rating."""

    def rated(rating: str) -> dict[str, str]:
        return {"Rating": rating, "Rationale": "Because."}

    def typed(rating: str) -> dict[str, Any]:
        return {**rated(rating), "Rationale For Rating": "Because.", "Type": ["1"]}

    return {
        "source": "evol_instruct",
        "instruction": instruction,
        "models": [f"model-{number}" for number in range(len(ratings))],
        "completions": [
            {
                "annotations": {
                    "helpfulness": typed("5"),
                    "honesty": rated(rating),
                    "instruction_following": rated("N/A"),
                    "truthfulness": typed("3"),
                },
                "critique": "Good.",
                "custom_system_prompt": "You are honest.",
                "fine-grained_score": 4.25,
                "model": f"model-{number}",
                "overall_score": 7.5,
                "principle": "honesty",
                "response": f"completion {number}",
            }
            for number, rating in enumerate(ratings)
        ],
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }


def psychocounsel(question: str, chosen: str, rejected: str) -> dict[str, Any]:
    """Make a row of Psychotherapy-LLM/PsychoCounsel-Preference."""
    principles = ("empathy", "relevance", "clarity", "safety", "exploration", "autonomy", "staging")
    return {
        "ID": "0",
        "prefID": 0,
        "question": question,
        "chosen": chosen,
        "rejected": rejected,
        "chosen_model": "a",
        "rejected_model": "b",
        **{f"{side}_{each}_rating": 4 for side in ("chosen", "rejected") for each in principles},
    }


class Hub:
    """A hub with one data set, read by the real streaming reader from a file of JSON lines."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.file = folder / "train.jsonl"
        self.asked: list[tuple[str, str | None]] = []
        real = datasets.load_dataset

        def info(_: Any, name: str, revision: str | None = None) -> Any:
            self.asked.append((name, revision))
            return SimpleNamespace(sha=COMMIT)

        def load(name: str, config: str | None, *, revision: str, **more: Any) -> Any:
            assert (name, revision) == (self.asked[-1][0], COMMIT)
            return real("json", data_files=str(self.file), **more)

        patch.setattr(huggingface_hub.HfApi, "dataset_info", info)
        patch.setattr(datasets, "load_dataset", load)

    def publish(self, *rows: dict[str, Any]) -> None:
        """Publish these rows."""
        self.file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(tmp_path, monkeypatch)


@pytest.fixture
def read(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[PreferencePair | None]]:
    """Read the first source of an axis, label its rows, and check where they came from."""
    monkeypatch.delenv("PREFREG_LOAD_PLUGINS", raising=False)

    def call(name: str, dataset: str, limit: int | None = None) -> list[PreferencePair | None]:
        axis = find(name)
        found = next(iter(axis.sources.values()))(SourceRequest(limit=limit, revision="v1"))
        assert isinstance(found, SourceRows)
        assert (found.origin, found.revision) == (f"hf:{dataset}", COMMIT)
        assert hub.asked == [(dataset, "v1")]
        hub.asked.clear()
        return [axis.label(row) for row in found.rows]

    return call


def find(name: str) -> Axis:
    return load_axes().find(name).axis


def texts(pairs: list[PreferencePair | None]) -> list[tuple[str, str, str] | None]:
    found = []
    for pair in pairs:
        assert pair is None or isinstance(pair.chosen[0], Message)
        found.append(pair and tuple(map(plain_text, (pair.prompt, pair.chosen, pair.rejected))))
    return found


def test_helpful_and_harmless_read_pku_saferlhf(hub: Hub, read: Any) -> None:
    hub.publish(pku("How?", better=1, safer=0), pku("When?", better=0, safer=1))
    key, pick = "With its key.", "Pick it like this."
    dataset = "PKU-Alignment/PKU-SafeRLHF"
    assert texts(read("helpful", dataset)) == [("How?", pick, key), ("When?", key, pick)]
    assert texts(read("harmless", dataset, limit=1)) == [("How?", key, pick)]


def test_verbosity_reads_helpsteer2_two_rows_to_a_pair(hub: Hub, read: Any) -> None:
    answers = [("a", "s", 1), ("a", "long", 3), ("b", "x", 2), ("b", "y", 2), ("c", "m", 4)]
    hub.publish(*(helpsteer2(*answer) for answer in answers))
    assert texts(read("verbosity", "nvidia/HelpSteer2")) == [("a", "long", "s"), None]
    assert texts(read("verbosity", "nvidia/HelpSteer2", limit=1)) == [("a", "long", "s")]


def test_honesty_pairs_the_highest_against_the_lowest_rating(hub: Hub, read: Any) -> None:
    hub.publish(
        ultrafeedback("a", "3", "1", "N/A", "5"),
        ultrafeedback("b", "4", "N/A", "2"),
        ultrafeedback("equal", "4", "4"),
        ultrafeedback("unrated", "N/A", "5", "N/A"),
        ultrafeedback("none"),
    )
    assert texts(read("honesty", "openbmb/UltraFeedback")) == [
        ("a", "completion 3", "completion 1"),
        ("b", "completion 0", "completion 2"),
        None,
    ]


def test_ratings_are_compared_as_numbers(hub: Hub, read: Any) -> None:
    hub.publish(ultrafeedback("a", "10", "9"))
    assert texts(read("honesty", "openbmb/UltraFeedback")) == [
        ("a", "completion 0", "completion 1")
    ]


def test_humanlike_reads_the_pairs_as_they_are(hub: Hub, read: Any) -> None:
    hub.publish({"prompt": "Hi?", "chosen": "Oh, hey!", "rejected": "Greetings."})
    dataset = "HumanLLMs/Human-Like-DPO-Dataset"
    assert texts(read("humanlike", dataset)) == [("Hi?", "Oh, hey!", "Greetings.")]


def test_psychocounsel_reads_the_question_as_the_prompt(hub: Hub, read: Any) -> None:
    hub.publish(psychocounsel("I am sad.", "I hear you.", "Cheer up."))
    dataset = "Psychotherapy-LLM/PsychoCounsel-Preference"
    assert texts(read("psychocounsel", dataset)) == [("I am sad.", "I hear you.", "Cheer up.")]


@pytest.mark.parametrize(
    "name", ["helpful", "harmless", "verbosity", "honesty", "humanlike", "psychocounsel"]
)
def test_a_data_set_that_lost_a_column_is_named(hub: Hub, name: str) -> None:
    hub.publish({"text": "something else"})
    found = next(iter(find(name).sources.values()))(SourceRequest())
    assert isinstance(found, SourceRows)
    with pytest.raises(DataError, match=r"Data set \S+/\S+ has no column .* \(found: text\)"):
        list(found.rows)


def test_each_published_source_states_its_licence() -> None:
    licences = {
        f"{each.axis.name}/{source}": each.axis.licence_of(source)
        for each in load_axes().axes
        if each.plugin.distribution == "prefreg"
        for source in each.axis.sources
    }
    assert licences == {
        "directness/pocket": None,
        "harmless/pku-saferlhf": "CC-BY-NC-4.0",
        "harmless/pocket": None,
        "harmless/smollm2": None,
        "helpful/pku-saferlhf": "CC-BY-NC-4.0",
        "helpful/pocket": None,
        "honesty/ultrafeedback": "MIT",
        "honesty/pocket": None,
        "humanlike/human-like-dpo": "llama3",
        "politeness/pocket": None,
        "politeness/smollm2": None,
        "psychocounsel/psychocounsel-preference": "CC-BY-NC-4.0",
        "verbosity/helpsteer2": "CC-BY-4.0",
        "verbosity/pocket": None,
        "verbosity/smollm2": None,
    }
