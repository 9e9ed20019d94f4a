"""A small model computes with the threads that are worth it, and nobody else is bothered."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import tiny
from prefreg.models.threads import on_suited_threads, suited_threads


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Give torch two threads, and the measurement a cache of its own."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path))
    torch.set_num_threads(2)
    yield tmp_path / "threads"
    torch.set_num_threads(before)


@on_suited_threads
def work(model: PreTrainedModel, *, fail: bool = False) -> int:
    if fail:
        raise ValueError("as asked")
    return torch.get_num_threads()


def test_what_is_measured_once_is_kept_and_the_threads_are_given_back(two: Path) -> None:
    model = tiny.llama(tied=True)
    chosen = work(model)
    assert chosen in (1, 2)
    assert torch.get_num_threads() == 2
    (kept,) = two.iterdir()
    assert kept.read_text() == str(chosen)
    assert work(model) == chosen
    with pytest.raises(ValueError, match="as asked"):
        work(model, fail=True)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("kept", "used"), [("1", {1}), ("2", {2}), ("7", {1, 2}), ("x", {1, 2})])
def test_another_process_takes_what_was_kept(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str, used: set[int]
) -> None:
    work(tiny.llama(tied=True))
    (file,) = two.iterdir()
    other = tmp_path / "other" / "threads" / file.name
    other.parent.mkdir(parents=True)
    other.write_text(kept)
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path / "other"))
    assert work(tiny.llama(tied=True)) in used


def test_who_chose_the_threads_keeps_them(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "2")
    with suited_threads(tiny.llama(tied=True)):
        assert torch.get_num_threads() == 2
    assert not two.exists()
