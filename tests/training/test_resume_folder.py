from pathlib import Path

import pytest
import torch

from prefreg.training.resume import open_scratch, remove_run, runs_folder

WEIGHTS = {"weight": torch.arange(4.0)}


def test_a_finished_pole_is_found_by_the_next_process_of_the_same_run() -> None:
    with open_scratch({"seed": 0}, "red", needed=0) as scratch:
        assert scratch is not None
        assert scratch.recall("positive") is None
        scratch.keep("positive", WEIGHTS, {"curve": [0.1]})
    with open_scratch({"seed": 1}, "red", needed=0) as other:
        assert other is not None
        assert other.recall("positive") is None
    with open_scratch({"seed": 0}, "red", needed=0) as again:
        assert again is not None
        found = again.recall("positive")
        assert found is not None
        assert torch.equal(found[0]["weight"], WEIGHTS["weight"])
        assert found[1] == {"curve": [0.1]}
    again.remove()
    assert not list(runs_folder().iterdir())


def test_starting_over_forgets_what_was_kept() -> None:
    with open_scratch(0, "red", needed=0) as scratch:
        assert scratch is not None
        scratch.keep("positive", WEIGHTS, {})
    with open_scratch(0, "red", needed=0, fresh=True) as again:
        assert again is not None
        assert again.recall("positive") is None


@pytest.mark.parametrize("name", ["positive.safetensors", "positive.json"])
def test_a_damaged_pole_is_told_once_and_not_used(name: str) -> None:
    notes: list[str] = []
    with open_scratch(0, "red", needed=0, note=notes.append) as scratch:
        assert scratch is not None
        scratch.keep("positive", WEIGHTS, {})
        path = scratch.folder / name
        path.write_bytes(path.read_bytes()[:-1])
        assert scratch.recall("positive") is None
        assert scratch.recall("positive") is None
    [note] = notes
    assert "positive pole" in note
    assert "is damaged; it is trained again" in note


def test_a_run_that_another_process_carries_out_is_left_to_it() -> None:
    notes: list[str] = []
    with open_scratch(0, "red", needed=0) as first:
        assert first is not None
        first.keep("positive", WEIGHTS, {})
        with open_scratch(0, "red", needed=0, fresh=True, note=notes.append) as second:
            assert second is None
        assert not remove_run(first.folder)
        assert first.recall("positive") is not None
    assert notes == [
        "This run cannot be taken up again if it is ended: another process is carrying out the "
        "same run."
    ]


def test_a_disk_or_folder_that_takes_nothing_only_costs_the_way_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    with open_scratch(0, "red", needed=1 << 60, note=notes.append) as scratch:
        assert scratch is None
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path / "file"))
    with open_scratch(0, "red", needed=0, note=notes.append) as scratch:
        assert scratch is None
    assert "GiB of disk, which are not free" in notes[0]
    assert "cannot be written" in notes[1]


def test_a_run_that_kept_nothing_leaves_nothing() -> None:
    with open_scratch(0, "red", needed=0):
        pass
    assert not list(runs_folder().iterdir())
