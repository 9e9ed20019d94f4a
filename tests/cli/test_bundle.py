"""Bundles and sites on the command line: what is said, and one line for what is refused."""

from pathlib import Path


def test_a_bundle_goes_from_one_registry_to_another(run, own: Path, tmp_path: Path) -> None:
    run("--registry", own, "alias", "helpful@1", "stable")
    run("--registry", own, "preset", "save", "calm", "helpful:1")
    file, there = tmp_path / "team.zip", ("--registry", tmp_path / "there.db")
    made = run("--registry", own, "bundle", "helpful", "-o", file)
    assert made.code == 0, made
    said = dict(line.split(None, 1) for line in made.out.splitlines())
    assert said["bundled"] == "helpful@1"
    assert said["presets"] == "calm@1"
    assert said["into"].startswith(f"{file} (")
    assert said["into"].endswith(" MiB, not signed)")
    taken = run("unbundle", file, *there)
    assert taken.out == ("Added helpful@1.\nAliases set: helpful@stable.\nPresets saved: calm@1.\n")
    assert taken.err == "It is not signed, so anybody may have made it.\n"
    assert run("unbundle", file, *there).out == "Here already: helpful@1.\n"
    here, origin = (
        run("show", "helpful", "--registry", place, "--json").data["metadata"]
        for place in (own, tmp_path / "there.db")
    )
    assert origin.pop("origin")["bundle"] == "team.zip"
    assert origin == here
    first, second = (
        run("compose", "calm", "-o", tmp_path / name, "--registry", place)
        for name, place in (("a", own), ("b", tmp_path / "there.db"))
    )
    assert (first.code, second.code) == (0, 0)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_what_cannot_be_bundled_is_said_in_a_line(run, refuse, trained: Path, tmp_path) -> None:
    here = ("--registry", trained)
    file = tmp_path / "b.zip"
    assert "Say what to bundle" in refuse(2, *here, "bundle", "-o", file)
    assert "has no vector of axis 'kind'" in refuse(1, *here, "bundle", "kind", "-o", file)
    file.write_text("mine")
    assert "or use --overwrite." in refuse(1, *here, "bundle", "helpful", "-o", file)
    assert "b.zip is no bundle" in refuse(1, "--registry", tmp_path / "r.db", "unbundle", file)


def test_a_site_says_where_to_look(run, refuse, own: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    made = run("--registry", own, "report", "-o", site)
    assert made.out.startswith("Wrote 3 pages on 2 versions (")
    assert made.out.endswith(f"): open {site}/index.html.\n")
    assert "site is not empty" in refuse(1, "--registry", own, "report", "-o", site)
    assert run("--registry", own, "report", "-o", site, "--overwrite", "--json").data["axes"] == 2
