"""Commands on axes of packages by third parties: good ones, broken ones and hostile ones."""

import json
from pathlib import Path

import pytest

from packages import good, install, prefreg

OWNED = "axis 'kindness' (plugin {0} of {0} 2.5)"


def test_a_sound_axis_is_checked_for_people_and_programs(site: Path, run) -> None:
    install(site, "sound", good("kindness"))
    shown = run("check-axis", "kindness", "--no-train", "--limit", 20)
    assert shown.code == 0, shown
    assert shown.out.startswith("Axis kindness: 20 rows of 'rows', seed 0\n\npassed  rows ")
    data = run("check-axis", "kindness", "--no-train", "--limit", 20, "--json").data
    assert data["passed"] is True
    assert [finding["check"] for finding in data["findings"]][:2] == ["rows", "limit"]


def test_a_failed_check_is_written_and_ends_with_the_code_of_a_gate(site: Path, run) -> None:
    never = good("kindness").replace("PreferencePair.from_row", "lambda row: None")
    install(site, "undecided", never)
    result = run("check-axis", "kindness", "--json")
    assert result.code == 3
    assert result.data["passed"] is False
    assert result.data["findings"][-1] == {
        "check": "ties",
        "status": "failed",
        "message": "the label rule never decides: all 30 rows are ties",
    }


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["helpfull"], 1, "Did you mean 'helpful'?"),
        (["helpful", "--source", "nowhere"], 1, "has no source 'nowhere'"),
        (["helpful", "--limit", "0"], 2, "0 is not in the range x>=1"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_cannot_be_checked_is_refused(run, arguments: list[str], code: int, told: str) -> None:
    result = run("check-axis", *arguments)
    assert (result.code, result.out) == (code, "")
    assert told in result.err


FAULTS = {
    "exits": (
        "for n",
        'print("noise"); raise SystemExit(0)\n    for n',
        "source 'rows' of {}",
        "0",
    ),
    "halts": ("yield", "if n == 7: raise SystemExit(4)\n        yield", "failed at row 8", "4"),
    "rules": ("PreferencePair.from_row", "lambda row: exit(5)", "label rule of {}", "5"),
    "turns": ("from_row)", "from_row, switch=lambda pair: exit(6))", "switch of {}", "6"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_hostile_function_ends_in_one_named_line(
    fault: str, site: Path, run, tmp_path: Path
) -> None:
    old, new, where, status = FAULTS[fault]
    install(site, fault, good("kindness").replace(old, new))
    registry = tmp_path / "own.db"
    result = run("add-axis", "kindness", "--base", "pocket", "--registry", registry, "--json")
    assert (result.code, result.out) == (1, ""), result
    told = result.err.splitlines()[-1]
    assert told.startswith("Error: The ")
    assert where.format(OWNED.format(fault)) in told
    assert told.endswith(f": SystemExit: {status}")
    assert not registry.exists()


def test_the_installed_command_survives_a_package_that_exits_and_prints(tmp_path: Path) -> None:
    noisy = "import os\nos.system('echo noise')\n" + good("kindness").replace(
        "for n", 'os.write(1, b"more noise"); raise SystemExit(0)\n    for n'
    )
    install(tmp_path, "noisy", noisy)
    code, out, err = prefreg("check-axis", "kindness", "--json", sites=[tmp_path])
    assert code == 3
    (finding,) = json.loads(out)["data"]["findings"]
    assert finding["message"] == (
        f"The source 'rows' of {OWNED.format('noisy')} failed at row 1: SystemExit: 0"
    )
    assert err.count("noise") == 2
