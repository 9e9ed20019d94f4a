"""What the examination of the house finds."""

import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from prefreg.axes.discovery import disable
from prefreg.registry import Access
from prefreg.training.doctor import empty_cache, examine
from prefreg.training.resume import leftovers, open_resume_folder


def test_a_sound_house_is_described(trained: Path) -> None:
    found = examine(Access(trained))
    assert re.search(
        r"trained.db \(2 versions, \d+\.\d MiB on the disk\)$", found.facts["registry"]
    )
    assert "harmless, helpful" in found.facts["axes"]
    assert found.facts["hub"] == "offline"
    for name in ("python", "packages", "devices", "memory", "disk", "cache"):
        assert found.facts[name]


class Hub(BaseHTTPRequestHandler):
    """A hub that answers, with an error."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_the_hub_is_asked_whether_it_answers(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        threading.Thread(target=server.handle_request).start()
        assert examine(Access(trained)).facts["hub"] == f"{endpoint} answers"
    assert examine(Access(trained)).facts["hub"] == f"{endpoint} cannot be reached"


def test_a_missing_registry_is_a_problem_not_a_failure(tmp_path: Path) -> None:
    found = examine(Access(tmp_path / "missing.db"))
    assert found.facts["registry"] == "none"
    assert any("missing.db" in problem for problem in found.problems)


def test_disabled_plugins_and_a_list_that_cannot_be_read_are_told(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFREG_CONFIG", str(tmp_path))
    disable("helpful")
    assert examine(Access(trained)).facts["disabled"].startswith("plugin helpful of prefreg ")
    (tmp_path / "disabled-plugins.txt").write_bytes(b"\xff")
    assert any("correct or remove it" in problem for problem in examine(Access(trained)).problems)


def test_a_token_is_never_shown(monkeypatch: pytest.MonkeyPatch, trained: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = examine(Access(trained))
    assert found.facts["hub token"] == "set"
    assert "hf_secret" not in str(found)


def test_the_cache_is_emptied_and_its_size_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path / "cache"))
    assert empty_cache().bytes == 0
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "old").write_bytes(b"12345")
    assert empty_cache().bytes == 5
    assert not (tmp_path / "cache").exists()


def test_runs_that_were_not_finished_are_listed_and_removed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path / "cache"))
    for name in ("ended", "busy"):
        with open_resume_folder(name, name, needed=0) as kept:
            assert kept is not None
            (kept.folder / "positive.json").write_text("{}")
    with open_resume_folder("busy", "busy", needed=0):
        found = {run.about: run.busy for run in empty_cache().runs}
        assert found == {"ended": False, "busy": True}
        assert [run.about for run in leftovers()] == ["busy"]
    assert [run.busy for run in empty_cache().runs] == [False]
    assert not (tmp_path / "cache").exists()
