"""What a user can get wrong: one clear message, its exit code, and nothing else changed."""

import gzip
import json
import os
import sqlite3
from pathlib import Path

import pytest

import prefreg
import tiny

MALFORMED = [
    ("helpful:one", "'one' in 'helpful:one' is not a number"),
    ("helpful:", "'' in 'helpful:' is not a number"),
    (":1", "does not begin with an axis name"),
    ("helpful", "'helpful' is not a term"),
    ("helpful:1:2", "'helpful:1:2' is not a term"),
    ("Helpful:1", "does not begin with an axis name"),
    ("helpful@:1", "neither a version number nor an alias"),
    ("helpful:nan", "'nan' in 'helpful:nan' is not a number"),
    ("helpful:inf", "'inf' in 'helpful:inf' is not a number"),
    ("helpful:1e999", "'1e999' in 'helpful:1e999' is not finite"),
    ("helpful: 1", "is not a number"),
]


@pytest.mark.parametrize(("term", "reason"), MALFORMED)
def test_a_malformed_term_is_wrong_usage(refuse, trained, term: str, reason: str) -> None:
    assert reason in refuse(2, "--registry", trained, "compose", term)
    assert reason in refuse(2, "--registry", trained, "generate", term, "-p", "Hello")


def test_compose_needs_a_term_or_a_recipe(refuse, trained) -> None:
    assert "Give at least one TERM" in refuse(2, "--registry", trained, "compose")


def test_terms_and_a_recipe_exclude_each_other(refuse, trained, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text("{}")
    message = refuse(2, "--registry", trained, "compose", "helpful:1", "--recipe", recipe)
    assert "(not both)" in message


UNKNOWN = [
    ("helpful@9:1", "Version 9 of axis 'helpful' does not exist"),
    ("helpful@stable:1", "no version alias 'stable'"),
    ("helpfull:1", "Did you mean 'helpful'?"),
    ("harmless:1", "has no vector of axis 'harmless'"),
]


@pytest.mark.parametrize(("term", "reason"), UNKNOWN)
def test_what_the_registry_lacks_is_named(refuse, trained, term: str, reason: str) -> None:
    assert reason in refuse(1, "--registry", trained, "compose", term)


@pytest.mark.parametrize("again", ["helpful:2", "helpful@1:1", "help:1", "helpfulness@1:0"])
def test_an_axis_named_twice_is_wrong_usage(refuse, trained, again: str) -> None:
    message = refuse(2, "--registry", trained, "compose", "helpful:1", again)
    assert "The axis 'helpful' is named twice" in message


def test_a_base_without_a_vector_is_refused(refuse, trained, tmp_path: Path) -> None:
    other = tiny.save(tiny.llama(tied=True), tmp_path / "other")
    message = refuse(1, "--registry", trained, "compose", "helpful:1", "--base", other)
    assert "helpful" in message
    assert "pocket" in message


def test_a_base_with_other_weights_is_another_base(refuse, trained, base_copy: Path) -> None:
    flip_byte(base_copy / "model.safetensors", -1)
    message = refuse(1, "--registry", trained, "compose", "helpful:1", "--base", base_copy)
    assert "helpful" in message


def flip_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_a_folder_without_weights_is_no_base(refuse, trained, base_copy: Path) -> None:
    (base_copy / "model.safetensors").unlink()
    message = refuse(1, "--registry", trained, "compose", "helpful:1", "--base", base_copy)
    assert str(base_copy) in message


def test_a_base_that_does_not_exist_is_named(refuse, trained) -> None:
    message = refuse(1, "--registry", trained, "compose", "helpful:1", "--base", "./nowhere/at/all")
    assert "./nowhere/at/all" in message


@pytest.mark.parametrize("kept", [0, 4, 100, 5000, -1000])
def test_truncated_weights_are_told(refuse, trained, base_copy: Path, kept: int) -> None:
    weights = base_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    message = refuse(1, "--registry", trained, "compose", "helpful:1", "--base", base_copy)
    assert "model.safetensors" in message


@pytest.mark.parametrize("position", [3, 7, 8, 9])
def test_a_damaged_header_of_weights_is_told(refuse, trained, base_copy: Path, position) -> None:
    flip_byte(base_copy / "model.safetensors", position)
    message = refuse(1, "--registry", trained, "compose", "helpful:1", "--base", base_copy)
    assert "model.safetensors" in message


@pytest.fixture
def damaged(own: Path) -> Path:
    """Return a registry in which one bit of a vector's numbers has flipped."""
    with sqlite3.connect(own) as connection:
        query = (
            "SELECT b.sha256, b.data FROM blobs b JOIN versions v ON v.sha256 = b.sha256 "
            "JOIN axes a ON a.id = v.axis_id WHERE a.name = 'helpful'"
        )
        ((sha256, data),) = connection.execute(query).fetchall()
        changed = bytearray(data)
        changed[-1] ^= 1
        connection.execute("UPDATE blobs SET data = ? WHERE sha256 = ?", (bytes(changed), sha256))
    connection.close()
    return own


@pytest.mark.parametrize("more", [[], ["--verify"]])
def test_a_vector_of_other_bytes_than_its_hash_is_refused(refuse, damaged: Path, more) -> None:
    message = refuse(1, "--registry", damaged, "compose", "helpful:1", *more)
    assert "helpful@1" in message


def test_verify_names_the_damaged_vector_only(refuse, damaged: Path) -> None:
    message = refuse(1, "--registry", damaged, "verify")
    assert "helpful@1" in message
    assert "verbosity" not in message


def test_the_undamaged_vector_of_a_damaged_registry_still_composes(run, damaged: Path) -> None:
    assert run("--registry", damaged, "compose", "verbosity:1").code == 0


GOOD = {"prompt": "Hi?", "chosen": "It is red.", "rejected": "It is blue."}


def write_rows(path: Path, *rows: object) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(line + "\n" for line in lines))
    return path


BROKEN_FILES = [
    ("broken.jsonl", [GOOD, '{"prompt": ', GOOD], "broken.jsonl:2: broken JSON"),
    ("column.jsonl", [GOOD, GOOD, {"prompt": "Hi?", "chosen": "a"}], ":3: column 'rejected'"),
    ("number.jsonl", [{**GOOD, "chosen": 3}], ":1: column 'chosen'"),
    ("list.jsonl", [GOOD, "[]"], ":2: the line is a JSON list"),
    ("gap.jsonl", [GOOD, "", GOOD], ":2: the line is empty"),
    ("empty.jsonl", [], "empty.jsonl is empty"),
    ("rows.csv", [GOOD], "rows.csv"),
]


@pytest.mark.parametrize(("name", "rows", "reason"), BROKEN_FILES)
def test_a_file_that_holds_no_pairs_is_told_by_line(
    refuse, own: Path, tmp_path: Path, name: str, rows: list[object], reason: str
) -> None:
    file = write_rows(tmp_path / name, *rows)
    command = ("--registry", own, "add-axis", "helpful", "--base", "pocket", "--data", file)
    assert reason in refuse(1, *command)
    assert reason in refuse(1, *command, "--dry-run")


def test_a_file_of_ties_leaves_nothing_to_learn(refuse, own: Path, tmp_path: Path) -> None:
    tie = {**GOOD, "rejected": GOOD["chosen"]}
    file = write_rows(tmp_path / "ties.jsonl", tie, tie)
    message = refuse(
        1, "--registry", own, "add-axis", "helpful", "--base", "pocket", "--data", file
    )
    assert "of 2 rows, 2 with identical answers" in message


def test_a_file_that_only_calls_itself_gzip_is_told(refuse, own: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl.gz", GOOD)
    message = refuse(
        1, "--registry", own, "add-axis", "helpful", "--base", "pocket", "--data", file
    )
    assert "rows.jsonl.gz" in message
    assert "gzip" in message


def test_a_cut_gzip_file_is_told(refuse, own: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(gzip.compress(json.dumps(GOOD).encode())[:-4])
    message = refuse(
        1, "--registry", own, "add-axis", "helpful", "--base", "pocket", "--data", file
    )
    assert "damaged gzip" in message


def test_data_that_is_neither_a_source_nor_a_file_is_told(refuse, own: Path) -> None:
    message = refuse(1, "--registry", own, "add-axis", "helpful", "--data", "nowhere.jsonl")
    assert "'nowhere.jsonl' is neither a source of the axis 'helpful'" in message
    assert "pocket" in message


def test_an_axis_that_is_not_installed_is_told(refuse, own: Path) -> None:
    message = refuse(1, "--registry", own, "add-axis", "helpfull", "--base", "pocket")
    assert "No axis 'helpfull' is installed" in message
    assert "Did you mean 'helpful'?" in message


SETTINGS = [
    ("max_step=8", "Did you mean 'max_steps'?"),
    ("output_dir=here", "prefreg's own setting"),
    ("report_to=wandb", "prefreg's own setting"),
    ("precompute_ref_log_probs=false", "prefreg's own setting"),
    ("seed=3", "--seed"),
    ("max_steps", "is not KEY=VALUE"),
    ("max_steps=many", "max_steps='many' is not a whole number"),
    ("max_steps=0", "max_steps"),
    ("learning_rate=-1", "must be above zero"),
    ("learning_rate=.nan", "is not finite"),
    ("max_steps=[", "is not YAML"),
]


@pytest.mark.parametrize(("setting", "reason"), SETTINGS)
def test_a_setting_that_cannot_be_is_wrong_usage(refuse, own, setting: str, reason: str) -> None:
    command = ("--registry", own, "add-axis", "helpful", "--base", "pocket", "--set", setting)
    assert reason in refuse(2, *command)


def test_an_unknown_preset_names_those_there_are(refuse, own: Path) -> None:
    command = ("--registry", own, "add-axis", "helpful", "--base", "pocket", "--preset", "fast")
    assert "paper, quick" in refuse(2, *command)


def test_an_unknown_key_of_a_configuration_file_is_told(refuse, own, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("learning_rat: 1\n")
    command = ("--registry", own, "add-axis", "helpful", "--base", "pocket", "--config", config)
    assert "Did you mean 'learning_rate'?" in refuse(2, *command)


@pytest.mark.parametrize("command", [["vectors"], ["compose", "helpful:1"], ["verify"]])
def test_a_file_that_is_no_registry_is_told(refuse, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "notes.db").write_text("This is not a database, but it is long enough. " * 20)
    assert "notes.db" in refuse(1, "--registry", "notes.db", *command)


@pytest.mark.parametrize("command", [["vectors"], ["alias", "helpful@1", "stable"], ["gc"]])
def test_a_registry_of_a_newer_prefreg_is_told(refuse, own: Path, command: list[str]) -> None:
    with sqlite3.connect(own) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    message = refuse(1, "--registry", own, *command)
    assert "newer" in message


READERS = [
    ["vectors"],
    ["show", "helpful"],
    ["bases"],
    ["compose", "helpful:1"],
    ["generate", "helpful:1", "-p", "Hello"],
    ["verify"],
]


@pytest.mark.parametrize("command", READERS)
def test_readers_say_that_a_registry_is_missing(refuse, command: list[str]) -> None:
    assert "no registry at missing.db" in refuse(1, "--registry", "missing.db", *command)


CHANGES = [["alias", "helpful@1", "stable"], ["alias", "helpful@a", "--delete"], ["gc"]]


@pytest.mark.parametrize("command", [*CHANGES, ["rm", "helpful@1"]], ids=" ".join)
def test_what_only_changes_a_registry_creates_none(refuse, command: list[str]) -> None:
    assert "no registry at registry.db" in refuse(1, *command)
    assert "no registry at missing.db" in refuse(1, "--registry", "missing.db", *command)
    assert not list(Path().iterdir())


def test_the_environment_names_a_registry_too(refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFREG_REGISTRY", "elsewhere.db")
    assert "no registry at elsewhere.db" in refuse(1, "vectors")


def test_a_folder_with_foreign_files_is_never_replaced(refuse, trained, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    command = ("--registry", trained, "compose", "helpful:1", "-o", "mine")
    assert "mine" in refuse(1, *command)
    assert "mine" in refuse(1, *command, "--overwrite")


def test_an_output_is_replaced_only_when_asked(refuse, run, trained, tmp_path: Path) -> None:
    command = ("--registry", trained, "compose", "-o", "out")
    assert run(*command, "helpful:1").code == 0
    assert "--overwrite" in refuse(1, *command, "helpful:2")
    before = (tmp_path / "out/model.safetensors").read_bytes()
    assert run(*command, "helpful:2", "--overwrite").code == 0
    assert (tmp_path / "out/model.safetensors").read_bytes() != before


def test_an_output_that_is_a_file_is_refused(refuse, trained, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    refuse(2, "--registry", trained, "compose", "helpful:1", "-o", "out")


RECIPES = [
    ("", "it holds no mapping"),
    ("{", "is no recipe"),
    ("[]", "it holds no mapping"),
    ('{"schema": 2, "base": {"name": "pocket"}, "terms": []}', "Only schema 1"),
    ('{"schema": 1, "terms": []}', "it needs 'schema', 'base' and 'terms'"),
]


@pytest.mark.parametrize(("text", "reason"), RECIPES)
def test_a_file_that_is_no_recipe_is_told(refuse, trained, tmp_path, text, reason) -> None:
    (tmp_path / "recipe.json").write_text(text)
    message = refuse(2, "--registry", trained, "compose", "--recipe", "recipe.json")
    assert reason in message


def test_a_recipe_for_another_vector_than_the_stored_is_refused(
    refuse, run, trained, tmp_path: Path
) -> None:
    run("--registry", trained, "compose", "helpful:1", "-o", "out")
    recipe = json.loads((tmp_path / "out/prefreg.json").read_text())
    recipe["terms"][0]["sha256"] = "0" * 64
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    message = refuse(1, "--registry", trained, "compose", "--recipe", "recipe.json", "-o", "new")
    assert "helpful@1" in message


WRONG_OPTIONS = [
    ["nonsense"],
    ["compose", "helpful:1", "--dtype", "int8"],
    ["compose", "helpful:1", "--method", "magic"],
    ["compose", "helpful:1", "--max-shard-size", "banana"],
    ["generate", "helpful:1"],
    ["generate", "helpful:1", "-p", "Hi", "--temperature", "-1"],
    ["generate", "helpful:1", "-p", "Hi", "--temperature", "nan"],
    ["generate", "helpful:1", "-p", "Hi", "--top-p", "0"],
    ["generate", "helpful:1", "-p", "Hi", "--max-new-tokens", "0"],
    ["add-axis", "helpful", "--limit", "0"],
    ["add-axis", "helpful", "--max-length", "1"],
    ["add-axis", "Not An Axis"],
    ["rm", "helpful"],
    ["rm", "helpful@stable"],
    ["alias", "helpful", "stable"],
    ["alias", "helpful", "--delete"],
    ["show", "helpful@"],
]


@pytest.mark.parametrize("command", WRONG_OPTIONS, ids=" ".join)
def test_wrong_usage_exits_with_2(refuse, own: Path, command: list[str]) -> None:
    refuse(2, "--registry", own, *command)


def test_more_tokens_than_the_context_are_refused(refuse, trained) -> None:
    command = ("generate", "helpful:1", "-p", "Hi", "--max-new-tokens", "100000")
    assert "context" in refuse(1, "--registry", trained, *command)


def test_a_pole_that_collapses_is_not_kept(refuse, own: Path) -> None:
    command = ("add-axis", "helpful", "--base", "pocket", "--limit", "60")
    command += ("--set", "max_steps=6", "--set", "learning_rate=0.5")
    message = refuse(3, "--registry", own, *command)
    assert "Axis 'helpful' is not kept" in message
    assert "--keep-anyway" in message


def test_a_bug_is_called_a_bug(refuse, trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefreg, "open", lambda *_, **__: 1 / 0)
    message = refuse(70, "--registry", trained, "compose", "helpful:1")
    assert "This is a bug in prefreg: ZeroDivisionError" in message
    assert "PREFREG_DEBUG=1" in message


NO_PATHS = ["/dev/zero", "pipe.jsonl", "~no-such-user/x", "x" * 5000, "a/" + "x" * 300, "file/x"]


@pytest.mark.parametrize("path", NO_PATHS)
def test_a_path_that_names_nothing_is_refused_in_a_line(run, tmp_path: Path, path: str) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "file").touch()
    for arguments in (
        ("compose", "helpful:1", "--base", path),
        ("compose", "--recipe", path),
        ("add-axis", "helpful", "--dry-run", "--data", path),
        ("add-axis", "helpful", "--dry-run", "--config", path),
        ("import", "x", "--base", "pocket", "--plus", path, "--positive-only"),
        ("import", "x", "--base", "pocket", "--task-vector", path, "--of-pair"),
        ("eval", "helpful:1", "--prompts-file", path),
        ("vectors", "--registry", path),
    ):
        result = run(*arguments)
        assert result.code in (1, 2), (arguments, result)
        assert result.err.count("Error: ") == 1
        assert len(result.err) < 3000
