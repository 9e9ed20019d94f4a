from pathlib import Path

import pytest

from prefreg.evaluation.candidates import EvaluationCache, digest

KEY = "ab" * 32


def test_a_result_is_found_by_composition_part_and_protocol(tmp_path: Path) -> None:
    cache = EvaluationCache(tmp_path)
    cache.write(KEY, "answers", {"seed": 0}, {"texts": ["é", "\ud800"]})
    assert cache.read(KEY, "answers", {"seed": 0}) == {"texts": ["é", "\ud800"]}
    assert cache.read(KEY, "answers", {"seed": 1}) is None
    assert cache.read(KEY, "pairs", {"seed": 0}) is None
    assert cache.read("cd" * 32, "answers", {"seed": 0}) is None


def test_a_damaged_entry_is_measured_again(tmp_path: Path) -> None:
    cache = EvaluationCache(tmp_path)
    cache.write(KEY, "answers", {}, 1)
    (path,) = tmp_path.rglob("*.json")
    path.write_text(path.read_text()[:-3])
    assert cache.read(KEY, "answers", {}) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "[" * 100_000, '{"result": 5}', '{"result": {}, "sha256": "x"}', "\x00"]
)
def test_what_is_no_entry_is_measured_again(tmp_path: Path, text: str) -> None:
    cache = EvaluationCache(tmp_path)
    cache.write(KEY, "answers", {}, {10: 1.5, 9: float("nan")})
    assert isinstance(cache.read(KEY, "answers", {}), dict)
    (path,) = tmp_path.rglob("*.json")
    path.write_text(text)
    assert cache.read(KEY, "answers", {}) is None


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = EvaluationCache(tmp_path / "file")
    cache.write(KEY, "answers", {}, 1)
    assert cache.read(KEY, "answers", {}) is None


def test_nothing_but_entries_is_left(tmp_path: Path) -> None:
    cache = EvaluationCache(tmp_path)
    cache.write(KEY, "answers", {}, 1)
    cache.write(KEY, "answers", {}, 2)
    assert cache.read(KEY, "answers", {}) == 2
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_a_digest_ignores_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})
