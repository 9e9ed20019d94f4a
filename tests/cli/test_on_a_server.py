"""Every command about a registry, with rows on a PostgreSQL server and vectors in a bucket."""

from pathlib import Path

import pytest
from sqlalchemy import make_url

pytestmark = pytest.mark.slow


@pytest.fixture
def team(run, url: str, bucket: str, trained: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registry for a team with helpful@1 and verbosity@1; it is the one that commands mean."""
    monkeypatch.setenv("PREFREG_REGISTRY", url)
    assert run("vectors").code == 1  # empty: nobody has written yet
    assert run("--blobs", bucket, "gc").code == 0
    for axis in ("helpful", "verbosity"):
        copied = run("--registry", trained, "copy", axis, "--to", url)
        assert copied.code == 0, copied.err
    return url


def test_every_command_works_on_a_server(run, team: str, trained: Path, tmp_path: Path) -> None:
    def done(*arguments: object) -> str:
        result = run(*arguments)
        assert result.code == 0, (arguments, result.err)
        assert str(make_url(team).password) not in result.out + result.err
        return result.out

    assert not run("show", "helpful", "--json").data["inline"]
    done("alias", "helpful@1", "stable")
    done("tag", "helpful@1", "good")
    found = run("search", "--tag", "good", "--json").data["vectors"]
    assert [each["axis"] for each in found] == ["helpful"]
    done("preset", "save", "calm", "helpful@stable:.6", "verbosity:-.3")
    assert "calm@1" in done("preset", "list")
    assert "cosine" in done("diff", "helpful", "verbosity")
    done("compose", "calm", "-o", "from-server")
    local = ("--registry", trained, "compose", "helpful:.6", "verbosity:-.3", "-o", "from-file")
    done(*local)
    weights = [(tmp_path / each / "model.safetensors") for each in ("from-server", "from-file")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert "stable" in done("alias", "helpful")
    done("rename", "verbosity", "brevity")
    assert "brevity@1" in done("vectors")
    done("verify")
    assert "postgresql" in done("doctor")
    assert run("backup", tmp_path / "safe.db", "--json").data["versions"] == 2
    assert run("--registry", tmp_path / "safe.db", "verify").code == 0
    assert run("rm", "brevity@1", "--json").code == 0
    assert run("gc", "--json").data["files"] == 0  # it is younger than a day
    assert run("gc", "--grace", "0", "--json").data["files"] == 1
    assert run("rm", "helpful@1").code == 1
    done("verify")
