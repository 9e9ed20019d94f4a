"""Caring for what is stored, at the command line: diff, --at, search, tag, rename, copy, backup."""

import math
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

import prefreg
from prefreg.registry import Store


@pytest.fixture
def dated(own: Path) -> Path:
    """Point helpful@stable at version 1 on 1 March, and delete it on 3 March."""
    for day, delete in ((1, False), (3, True)):
        moment = datetime(2026, 3, day, 12, tzinfo=UTC)
        with Store.open(own, write=True, clock=lambda moment=moment: moment) as store:
            if delete:
                store.delete_alias("helpful", "stable")
            else:
                store.set_alias("helpful", 1, "stable")
    return own


def test_two_versions_are_shown_side_by_side(run, trained) -> None:
    command = ("--registry", trained, "diff", "helpful@1", "verbose")
    data = run(*command, "--json").data
    assert (data["first"]["axis"], data["second"]["axis"]) == ("helpful", "verbosity")
    assert -1 < data["cosine"] < 1
    assert data["reason"] is None
    differing = {each["field"]: each for each in data["differences"]}
    assert (differing["axis"]["first"], differing["axis"]["second"]) == ("helpful", "verbosity")
    assert differing["sha256"]["group"] == differing["data.fingerprint"]["group"] == "hashes"
    assert differing["poles.positive.report.accuracy"]["group"] == "metrics"
    assert differing["geometry.norm"]["group"] == "geometry"
    assert not {"training.seed", "base.name", "number"} & set(differing)
    assert {"base", "seeds", "settings"} <= set(data["same"])
    text = run(*command).out
    assert f"cosine {data['cosine']:.6g}" in text
    assert "METRICS" in text
    assert "values differ" in text


def test_a_version_does_not_differ_from_itself(run, trained) -> None:
    data = run("--registry", trained, "diff", "helpful", "help@1", "--json").data
    assert data["differences"] == []
    assert math.isclose(data["cosine"], 1, abs_tol=1e-12)


def test_an_alias_is_looked_up_as_of_a_date(run, refuse, dated: Path) -> None:
    def show(date: str) -> tuple[object, ...]:
        return ("--registry", dated, "show", "helpful@stable", "--at", date)

    assert run(*show("2026-03-01"), "--json").data["version"] == 1
    assert run(*show("2026-03-03T11:59"), "--json").data["version"] == 1
    assert "first set on 2026-03-01 12:00:00 UTC" in refuse(1, *show("2026-02-28"))
    assert "first set on 2026-03-01 12:00:00 UTC" in refuse(1, *show("2026-03-01T11:59"))
    assert "deleted on 2026-03-03 12:00:00 UTC" in refuse(1, *show("2026-03-03"))
    assert "'March' is no date: write YYYY-MM-DD" in refuse(2, *show("March"))


def test_terms_are_looked_up_as_of_a_date(run, refuse, dated: Path) -> None:
    command = ("--registry", dated, "compose", "helpful@stable:1", "--plan", "--at")
    assert run(*command, "2026-03-02", "--json").data["formula"] == "base + 1·helpful@1"
    assert "pointed to nothing" in refuse(1, *command, "2026-03-04")
    command = ("--registry", dated, "generate", "helpful@stable:1", "-p", "Hello", "--at")
    assert run(*command, "2026-03-02", "--max-new-tokens", "2").code == 0
    assert "pointed to nothing" in refuse(1, *command, "2026-02-01")
    assert "had no version" in refuse(
        1, "--registry", dated, "show", "helpful", "--at", "2026-01-01"
    )


def test_the_history_of_an_alias_is_shown_until_a_date(run, refuse, dated: Path) -> None:
    run("--registry", dated, "alias", "helpful@1", "best")
    command = ("--registry", dated, "alias")
    actions = [
        (event["alias"], event["action"])
        for event in run(*command, "helpful", "--json").data["history"]
    ]
    assert actions == [("stable", "set"), ("stable", "deleted"), ("best", "set")]
    one = run(*command, "helpful@stable", "--at", "2026-03-02", "--json").data["history"]
    assert [(event["version"], event["base"]) for event in one] == [(1, "pocket")]
    assert "2026-03-01 12:00  stable  set" in run(*command, "helpful@stable").out
    assert "No version of verbosity was ever given" in run(*command, "verbosity").out
    assert "was set by 2026-02-01" in refuse(1, *command, "helpful", "--at", "2026-02-01")
    assert "never had a version alias 'old'" in refuse(1, *command, "helpful@old")
    assert "Say what to call it" in refuse(2, *command, "helpful@1")
    assert "only now" in refuse(2, *command, "helpful@1", "old", "--at", "2026-03-01")
    assert "--base goes with --delete" in refuse(2, *command, "helpful@1", "old", "--base", "b")


def test_a_base_is_named_as_the_registry_knows_it(run, refuse, own: Path) -> None:
    run("--registry", own, "alias", "helpful@1", "stable")
    (base,) = run("--registry", own, "bases", "--json").data["bases"]
    for name in ("pocket", base["weights"], base["weights"][:12]):
        command = ("--registry", own, "show", "helpful@stable", "--base", name)
        assert run(*command, "--json").data["version"] == 1
    refuse(1, "--registry", own, "show", "helpful", "--base", "./nowhere")
    command = ("alias", "helpful@stable", "--delete", "--base", base["weights"])
    assert run("--registry", own, *command).code == 0


def test_versions_are_tagged_and_found(run, refuse, own: Path) -> None:
    command = ("--registry", own)
    assert run(*command, "tag", "help@1", "b", "a", "--json").data["tags"] == ["a", "b"]
    assert run(*command, "vectors", "helpful", "--json").data["vectors"][0]["tags"] == ["a", "b"]
    bound = ("--metric", "training.settings.max_steps=8")
    found = run(*command, "search", "pocket", "--tag", "a", *bound, "--json").data["vectors"]
    assert [(v["axis"], v["metrics"]) for v in found] == [
        ("helpful", {"training.settings.max_steps": 8})
    ]
    text = run(*command, "search", "--tag", "a", "--base", "pock").out
    assert "helpful@1" in text
    assert "a,b" in text
    assert run(*command, "tag", "helpful@1", "a", "--delete").out.endswith("tags: b.\n")
    nothing = run(*command, "search", "--tag", "a")
    assert (nothing.code, nothing.out) == (0, "Nothing found.\n")
    assert run(*command, "search", "--tag", "a", "--json").data == {"vectors": []}
    assert "is no condition on a metric" in refuse(2, *command, "search", "--metric", "x")
    assert "is no tag" in refuse(2, *command, "search", "--tag", "a b")
    assert "is no tag" in refuse(2, *command, "tag", "helpful@1", "a b")
    assert "Say which version" in refuse(2, *command, "tag", "helpful", "a")
    assert "does not exist" in refuse(1, *command, "tag", "helpful@7", "a")


def test_a_version_is_tagged_when_it_is_added(run, refuse, own: Path) -> None:
    command = ("--registry", own, "add-axis", "helpful", "--base", "pocket", "--limit", "60")
    assert "is no tag" in refuse(2, *command, "--tag", "a b")
    command += ("--set", "max_steps=2", "--keep-anyway", "--tag", "quick", "--tag", "try", "--json")
    assert run(*command).data["tags"] == ["quick", "try"]


def test_a_renamed_axis_composes_under_both_names(run, refuse, own: Path) -> None:
    command = ("--registry", own)
    data = run(*command, "rename", "help", "useful", "--json").data
    assert data == {"axis": "useful", "before": "helpful"}
    for term in ("helpful:1", "useful:1"):
        plan = run(*command, "compose", term, "--plan", "--json").data
        assert plan["formula"] == "base + 1·useful@1"
    assert "'verbosity' is another axis" in refuse(1, *command, "rename", "useful", "verbosity")
    assert "is no axis name" in refuse(2, *command, "rename", "useful", "Useful")
    assert "Did you mean 'useful'" in refuse(1, *command, "rename", "usefull", "new")


def test_a_copy_composes_in_its_new_registry(run, trained, tmp_path: Path) -> None:
    command = ("--registry", trained, "copy", "help@1", "--to", "new.db")
    data = run(*command, "--json").data
    assert (data["axis"], data["version"], data["added"]) == ("helpful", 1, True)
    assert data["registry"] == "new.db"
    assert "already" in run(*command).out
    one = run("compose", "helpful:1", "--registry", trained, "-o", "a", "--json").data
    two = run("compose", "helpful:1", "--registry", "new.db", "-o", "b", "--json").data
    assert one["formula"] == two["formula"]
    composed = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert composed[0] == composed[1]
    assert run("verify", "--registry", "new.db").code == 0


def test_a_copy_onto_a_different_version_is_refused(run, refuse, trained, own: Path) -> None:
    command = ("--registry", trained, "copy", "verbosity@1", "--to", own, "--as", "helpful")
    message = refuse(1, *command)
    assert "verbosity@1 is not copied: helpful@1 is a different version there" in message
    assert "--renumber" in message
    assert run(*command, "--renumber", "--json").data["version"] == 2
    assert run("verify", "--registry", own).code == 0


def test_a_copy_that_cannot_be_made_creates_nothing(refuse, trained, own: Path) -> None:
    command = ("--registry", trained, "copy")
    assert "does not exist" in refuse(1, *command, "helpful@7", "--to", "new.db")
    assert "is no axis name" in refuse(2, *command, "helpful", "--to", "new.db", "--as", "A")
    assert "does not exist" in refuse(1, *command, "helpful", "--to", "no/new.db")
    assert "no SQLite database" in refuse(1, *command, "helpful", "--to", note(own))
    with sqlite3.connect(own) as connection:
        connection.execute("UPDATE blobs SET data = zeroblob(size)")
    connection.close()
    damaged = refuse(1, "--registry", own, "copy", "helpful", "--to", "new.db")
    assert "do not match their hash" in damaged


def note(own: Path) -> Path:
    path = own.with_name("note.txt")
    path.write_text("not a registry")
    return path


def test_a_backup_is_a_registry(run, refuse, own: Path, tmp_path: Path) -> None:
    command = ("--registry", own, "backup", "safe.db")
    data = run(*command, "--json").data
    assert (data["file"], data["versions"], data["files"]) == (str(tmp_path / "safe.db"), 2, 0)
    assert data["bytes"] == (tmp_path / "safe.db").stat().st_size
    assert run("compose", "helpful:1", "--registry", "safe.db").code == 0
    assert "exists. Name another file, or use --overwrite" in refuse(1, *command)
    assert "Backed up 2 versions to safe.db" in run(*command, "--overwrite").out
    command = ("--registry", own, "backup", note(own), "--overwrite")
    assert "is not a registry" in refuse(1, *command)
    command = ("--registry", own, "backup", own, "--overwrite")
    assert "is the registry itself" in refuse(1, *command)


def test_sizes_and_the_disk_are_told_everywhere(run, own: Path) -> None:
    size = own.stat().st_size
    disk = {"database": size, "files": 0, "beside": 0, "total": size}
    for command in ("vectors", "bases", "show"):
        extra = ("helpful",) if command == "show" else ()
        assert run("--registry", own, command, *extra, "--json").data["disk"] == disk
        assert "MiB on the disk" in run("--registry", own, command, *extra).out
    vectors = run("--registry", own, "vectors", "--json").data
    assert vectors["bytes"] == sum(vector["size"] for vector in vectors["vectors"])
    (base,) = run("--registry", own, "bases", "--json").data["bases"]
    assert (base["versions"], base["bytes"]) == (2, vectors["bytes"])
    assert "inside the database" in run("--registry", own, "show", "helpful").out
    assert "MiB on the disk" in run("--registry", own, "doctor").out
    run("--registry", own, "rm", "helpful@1")
    after = run("--registry", own, "gc", "--json").data
    assert after["disk"]["total"] == own.stat().st_size < size
    assert after["bytes"] > 0


def test_of_a_long_history_the_newest_changes_are_shown(run, own: Path) -> None:
    registry = prefreg.open(own)
    for number in range(23):
        registry.alias("helpful", 1, f"a{number}")
    found = run("--registry", own, "alias", "helpful").out
    assert "a2 " not in found
    assert "a3 " in found
    assert found.rstrip().endswith("3 earlier changes: `prefreg alias helpful --all` shows all.")
    whole = run("--registry", own, "alias", "helpful", "--all").out
    assert "a0 " in whole
    assert "earlier" not in whole
    assert len(run("--registry", own, "alias", "helpful", "--json").data["history"]) == 23
    refused = run("--registry", own, "alias", "helpful@1", "best", "--all")
    assert refused.code == 2
    assert "--all looks at the history" in refused.err


def test_readers_change_nothing(run, trained) -> None:
    before = trained.read_bytes(), sorted(trained.parent.iterdir())
    for command in (
        ["search", "help"],
        ["diff", "helpful", "verbosity"],
        ["show", "helpful", "--at", "2999-01-01"],
        ["copy", "helpful", "--to", "else.db"],
        ["backup", "safe.db"],
    ):
        assert run("--registry", trained, *command).code == 0
    assert (trained.read_bytes(), sorted(trained.parent.iterdir())) == before


def test_python_has_what_the_commands_have(own: Path, tmp_path: Path) -> None:
    registry = prefreg.open(own)
    assert registry.tag("helpful", 1, "good").tags == ("good",)
    (found,) = registry.search(tags=["good"], metrics=["training.settings.max_steps>=8"])
    assert str(found.version) == "helpful@1"
    assert registry.diff("helpful@1", "verbose").cosine is not None
    assert registry.rename("helpful", "useful") == "helpful"
    assert registry.copy("useful", 1, tmp_path / "new.db").added
    assert registry.backup(tmp_path / "safe.db").versions == 2
    registry.alias("useful", 1, "stable")
    now = datetime.now(UTC)
    assert registry.show("useful", "stable", at=now).number == 1
    assert [event.alias for event in registry.alias_history("helpful", "stable", at=now)]
    assert registry.disk_use().total == own.stat().st_size
    assert [str(summary) for summary in registry.summaries()] == ["useful@1", "verbosity@1"]
