"""`tune`, `--decouple` and `--blame` as commands."""

import shutil
from pathlib import Path

import pytest

SHIPPED = Path(__file__).parents[2] / "registry.db"
SMALL = ("--prompts", 32, "--max-new-tokens", 24)


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    return Path(shutil.copy(SHIPPED, tmp_path / "shipped.db"))


def test_a_target_becomes_a_setting_a_picture_and_a_checkpoint(run, shipped: Path) -> None:
    asked = ("tune", "--target", "helpful=max", "--subject-to", "kl<=1.5", "--axes", "helpful")
    more = ("--budget", 6, "--plot", "front.png", "--then", "compose", *SMALL)
    found = run("--registry", shipped, *asked, *more)
    assert found.code == 0, found
    assert "RECOMMENDED" in found.out
    assert "prefreg compose helpful@1:" in found.out
    assert Path("front.png").stat().st_size > 10_000
    assert Path("composed", "prefreg.json").exists()


def test_an_effect_is_generated_with_and_told(run, shipped: Path) -> None:
    asked = ("generate", "--decouple", "helpful:0.5", "--decouple-prompts", 32)
    found = run("--registry", shipped, *asked, "-p", "Which colour is Elsa's boat?", "--json")
    assert found.code == 0, found
    (aim,) = found.data["decoupled"]["aims"]
    assert (aim["axis"], aim["unit"], aim["wanted"]) == ("helpful", "log-odds", 0.5)
    assert found.data["terms"][0].startswith("helpful@1:")


def test_blame_is_a_table(run, shipped: Path) -> None:
    found = run("--registry", shipped, "diagnose", "--blame", "helpful:1", "harmless:1", *SMALL)
    assert found.code == 0, found
    assert "WHOLE" in found.out
    assert "harmless@1" in found.out


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (2, ("tune", "--target", "helpful"), "is no target"),
        (2, ("tune", "--target", "helpful=max", "--subject-to", "kl>=2,kl<=1"), "contradict"),
        (2, ("tune", "--target", "helpful=max", "--then", "preset"), "preset"),
        (2, ("compose", "helpful:1", "--decouple", "--calibrated"), "leave one out"),
        (2, ("compose", "helpful:1", "--decouple-prompts", "9"), "--decouple measures on"),
        (2, ("compose", "--recipe", "x.json", "--decouple"), "x.json"),
        (2, ("compose", "helpful:0", "--decouple"), "an effect that is wanted"),
        (1, ("compose", "helpful:1", "verbosity:0", "--decouple"), "has no stored range"),
        (2, ("diagnose", "--blame", "helpful:1"), "two or more"),
    ],
)
def test_what_cannot_be_chosen(
    run, trained: Path, code: int, arguments: tuple[str, ...], message: str
) -> None:
    found = run("--registry", trained, *arguments)
    assert found.code == code, found
    assert found.out == ""
    assert message in found.err
