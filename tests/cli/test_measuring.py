"""Whatever axis can be added can be measured, on the pairs that its own run held out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import worded
from packages import install
from prefreg import pocket

pytestmark = pytest.mark.slow
Run = Callable[..., Any]
Refuse = Callable[..., str]
FEW = ("--prompts", 24, "--max-new-tokens", 4)
SHORT = ("--set", "max_steps=2", "--set", "per_device_train_batch_size=8", "--answers", 0)
TONE = "name: tone\nsummary: A test.\naliases: [warm]\nsources:\n- file: rows.jsonl\n"
PACKAGE = """
import json, prefreg
from prefreg import Axis, PreferencePair

def load(request):
    with open({path!r}) as lines:
        return [json.loads(line) for line in lines][:request.limit]

@prefreg.hookimpl
def prefreg_register_axes():
    return [Axis(name="kindness", summary="A test.", sources={{"rows": load}},
                 label=PreferencePair.from_row, metric=lambda prompt, answer: float(len(answer)))]
"""


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def village(count: int) -> list[dict[str, Any]]:
    """Return rows of the bundled world under the names of columns that everybody uses."""
    found = []
    for row in pocket.rows("politeness", limit=count):
        texts = sorted((0, 1), key=lambda number: row[f"politeness_{number}"])
        rejected, chosen = (row[f"response_{number}"] for number in texts)
        found.append({"prompt": row["prompt"], "chosen": chosen, "rejected": rejected})
    return found


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return worded.save(tmp_path / "base")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Return a file of rows that a tiny base can read."""
    return write(tmp_path / "rows.jsonl", [pair.to_row() for pair in worded.pairs(60)])


@pytest.fixture
def imported(run: Run, base: Path, tmp_path: Path) -> None:
    """Import happy@1, which nothing else knows."""
    for seed, pole in enumerate(("plus", "minus"), 1):
        worded.llama(seed=seed).save_pretrained(tmp_path / pole)
    assert run("import", "happy", "--plus", "plus", "--minus", "minus", "--base", base).code == 0


def measure_all(run: Run, axis: str, effect: str) -> None:
    """Run every command that measures, and look for the margin of the axis's own pairs."""
    figures = {f"{axis}.margin", f"{axis}.accuracy"} | {effect}
    found = run("eval", f"{axis}:1", *FEW, "--json").data
    assert figures <= {each["name"] for each in found["figures"]}, found["missing"]
    swept = run("sweep", f"{axis}=0,1", *FEW, "--json").data
    (_, turned) = swept["settings"]
    assert figures <= {each["name"] for each in turned["evaluation"]["figures"]}
    ranged = run("range", axis, "--limit", 1, "--step", 1, *FEW, "--json").data
    assert ranged["figure"] == effect
    bounds = f"{axis}.margin>=-1000,{axis}.accuracy>=0"
    assert run("gate", f"{axis}:1", "--require", bounds, *FEW).code == 0
    calibrated = run("calibrate", axis, "--furthest", 1, *FEW, "--json").data
    assert [each["axis"] for each in calibrated["calibrations"]] == [axis]
    assert f"{axis}@1" not in run("diagnose", f"{axis}:1", *FEW, "--json").data["unmeasured"]


def test_an_axis_declared_on_the_spot_is_measured(
    run: Run, refuse: Refuse, base: Path, rows: Path
) -> None:
    added = run("add-axis", "happy", "--data", rows, "--base", base, "--keep-anyway", *SHORT)
    assert added.code == 0, added
    said = "happy is no installed axis: taking the rows of rows.jsonl as they stand (chosen = +)."
    assert said in added.err
    recorded = run("show", "happy", "--json").data["metadata"]
    assert recorded["plugin"]["distribution"] == "declared on the spot"
    assert recorded["data"]["sources"][0]["path"] == str(rows)
    measure_all(run, "happy", "happy.margin")
    moved = rows.rename(rows.with_name("moved.jsonl"))
    gone = f"its data file {rows} is gone; give pairs with --data happy=FILE."
    assert gone in refuse(1, "eval", "happy:1", *FEW)
    write(rows, [pair.to_row() for pair in worded.pairs(20)])
    assert f"{rows} has other pairs now" in refuse(1, "range", "happy", *FEW)
    assert (
        run(
            "gate", "happy:1", "--require", "happy.accuracy>=0", *FEW, "--data", f"happy={moved}"
        ).code
        == 0
    )


def test_a_yaml_axis_is_measured(run: Run, base: Path, rows: Path, tmp_path: Path) -> None:
    tone = tmp_path / "tone.yaml"
    tone.write_text(TONE)
    added = run("add-axis", "./tone.yaml", "--base", base, "--keep-anyway", *SHORT)
    assert added.code == 0, added
    named = run("eval", "tone:1", "--axes", "./tone.yaml", *FEW, "--json").data["figures"]
    assert "tone.margin" in {each["name"] for each in named}
    tone.unlink()  # the version has what it said
    measure_all(run, "tone", "tone.margin")
    rows.unlink()
    missing = run("eval", "tone:1", "--prompts-file", write(rows, PROMPTS), *FEW, "--json").data
    assert "tone.margin" in missing["missing"]


PROMPTS = [{"prompt": f"what is the {word} ?"} for word in ("boat", "house", "tree", "sky", "a")]


def test_an_axis_of_a_package_is_measured_on_the_bundled_base(
    run: Run, site: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "village.jsonl", village(60))
    install(site, "kind", PACKAGE.format(path=str(path)))
    added = run("add-axis", "kindness", "--base", "pocket", "--keep-anyway", *SHORT)
    assert added.code == 0, added
    measure_all(run, "kindness", "kindness")


def test_an_imported_vector_is_measured_on_pairs_that_are_given(
    run: Run, refuse: Refuse, imported: None, rows: Path
) -> None:
    told = refuse(1, "eval", "happy:1")
    assert "was not trained here, so it has no held-out pairs; give pairs with --data" in told
    found = run("eval", "happy:1", "--data", f"happy={rows}", *FEW, "--json").data
    assert {"happy.margin", "happy.accuracy"} <= {each["name"] for each in found["figures"]}


def test_a_name_that_looks_like_another_is_meant_only_if_that_is_said(
    run: Run, refuse: Refuse, imported: None, base: Path, rows: Path
) -> None:
    dry = ("--data", rows, "--base", base, "--dry-run")
    for name, meant in (("helpfull", "helpful"), ("hapy", "happy")):
        told = refuse(1, "add-axis", name, *dry)
        assert f"Did you mean {meant!r}? If {name!r} is meant, a new axis of these rows" in told
        assert run("add-axis", name, *dry, "--new").code == 0
    assert run("add-axis", "happy", *dry).code == 0
    assert "takes a name that no plugin has" in refuse(2, "add-axis", "helpful", *dry, "--new")
    told = refuse(1, "add-axis", "sad", "--data", "gone.jsonl")
    assert told.startswith("No axis 'sad' is installed, and of --data gone.jsonl none can be made")
