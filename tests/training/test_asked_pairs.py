"""From two sentences to a version, and back to the pairs that it held out."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import prefreg
import worded
from prefreg import DataError
from prefreg.training.heldout import heldout_pairs

YAML = """\
name: reddish
summary: Says that things are red.
metric: count(answer, 'red')
contrast:
  positive: red
  negative: "no"
  prompts: asked.txt
  max_new_tokens: 12
"""
QUICK = ("max_steps=2", "per_device_train_batch_size=8", "max_length=48", "learning_rate=1e-3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a taught base and an axis of two sentences, which no test may change."""
    folder = tmp_path_factory.mktemp("asked")
    worded.save_taught(folder / "base")
    (folder / "reddish.yaml").write_text(YAML)
    (folder / "asked.txt").write_text("\n".join(worded.ASKED))
    return folder


@pytest.fixture(scope="module")
def added(folder: Path) -> Iterator[tuple[prefreg.Registry, list[str]]]:
    """Train the axis for two steps; return the registry and what was told."""
    told: list[str] = []
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFREG_CACHE", str(folder / "cache"))
        registry = prefreg.open(folder / "registry.db")
        registry.add_axis(
            str(folder / "reddish.yaml"),
            base=str(folder / "base"),
            settings=QUICK,
            keep_anyway=True,
            tell=told.append,
        )
    return registry, told


@pytest.fixture(autouse=True)
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give each test its own copy of what the run has cached."""
    if (folder / "cache").exists():
        shutil.copytree(folder / "cache", tmp_path / "cache")
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_version_records_what_was_asked(added: tuple[prefreg.Registry, list[str]]) -> None:
    registry, told = added
    record = registry.show("reddish")
    (part,) = record.metadata["data"]["sources"]
    assert (part["source"], part["origin"], part["rows"]) == (
        "contrast",
        "answers of base to asked.txt",
        24,
    )
    assert record.metadata["declaration"]["text"] == YAML
    assert any(text.startswith("Asking base: 24 prompts of asked.txt") for text in told)
    assert any(text.startswith("Kept 24 of 24 pairs: 6 words chosen, 2 rej") for text in told)


def test_the_held_out_pairs_are_found_in_the_cache(
    added: tuple[prefreg.Registry, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = added[0].show("reddish")
    monkeypatch.delattr("prefreg.models.answering_base.load_model")
    held = heldout_pairs(record)
    assert len(held) == 2
    assert {pair.rejected[0][1] for pair in held} == {"no ."}
    assert all("red" in pair.chosen[0][1] for pair in held)


def test_without_the_cache_the_base_is_asked_again(
    added: tuple[prefreg.Registry, list[str]], cache: Path
) -> None:
    record = added[0].show("reddish")
    held = heldout_pairs(record)
    shutil.rmtree(cache / "answers")
    assert heldout_pairs(record) == held


def test_without_the_base_it_is_told_that_they_are_gone(
    added: tuple[prefreg.Registry, list[str]], folder: Path, cache: Path
) -> None:
    record = added[0].show("reddish")
    (folder / "base").rename(folder / "elsewhere")
    try:
        with pytest.raises(DataError, match="The base model is no longer at"):
            heldout_pairs(record)
    finally:
        (folder / "elsewhere").rename(folder / "base")


def test_the_same_again_asks_nothing_and_trains_nothing(
    added: tuple[prefreg.Registry, list[str]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("prefreg.models.answering_base.load_model")
    told: list[str] = []
    record = added[0].add_axis(
        str(folder / "reddish.yaml"), base=str(folder / "base"), settings=QUICK, tell=told.append
    )
    assert (record.number, told[-1][:28]) == (1, "reddish@1 is there already, ")


def test_a_preview_shows_a_few_and_keeps_them(
    folder: Path, cache: Path, added: tuple[prefreg.Registry, list[str]]
) -> None:
    shutil.rmtree(cache / "answers")
    shown: list[tuple[str, int, int]] = []

    def progress(stage: str, done: int, total: int, loss: float | None = None, /) -> None:
        shown.append((stage, done, total))

    asked = {"base": str(folder / "base"), "settings": QUICK, "progress": progress}
    preview = added[0].preview_axis(str(folder / "reddish.yaml"), **asked)  # type: ignore[arg-type]
    assert (preview.audit.pairs, shown) == (16, [("answers", 0, 48), ("answers", 32, 48)])
    again = added[0].preview_axis(str(folder / "reddish.yaml"), **asked)  # type: ignore[arg-type]
    assert (again.audit.pairs, len(shown)) == (24, 5)


def test_evaluation_scores_with_the_metric_of_the_file(
    added: tuple[prefreg.Registry, list[str]], tmp_path: Path
) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in worded.ASKED[:6]))
    found = added[0].evaluate(["reddish:1"], prompts=6, prompts_file=asked, max_new_tokens=12)
    figure = found.figures.find("reddish")
    assert figure is not None
    assert found.sources == {"reddish": "held out of reddish@1"}
