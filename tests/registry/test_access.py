"""Which registry is meant."""

from pathlib import Path

import pytest

from prefreg import RegistryError
from prefreg.registry.access import Access


def test_the_argument_wins_over_the_environment(trained: Path, monkeypatch) -> None:
    monkeypatch.setenv("PREFREG_REGISTRY", "elsewhere.db")
    with Access(trained).reading() as store:
        assert len(store.versions()) == 2
    with pytest.raises(RegistryError, match=r"no registry at elsewhere\.db"):
        Access().reading()
    assert not Access().is_present()


def test_writing_creates_what_is_missing_and_reading_does_not(tmp_path: Path) -> None:
    with pytest.raises(RegistryError):
        Access("new.db").reading()
    with pytest.raises(RegistryError, match="to change"):
        Access("new.db").changing()
    assert list(tmp_path.iterdir()) == []
    with Access("new.db").writing() as store:
        assert store.versions() == []
    assert (tmp_path / "new.db").is_file()
    with Access("new.db").changing() as store:
        assert store.versions() == []


def test_without_a_name_writers_use_the_folder_they_are_in(tmp_path: Path) -> None:
    with Access().writing():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["registry.db"]
    with Access().reading() as store:
        assert store.versions() == []
