"""Every part of what is measured on a GPU, at small sizes on what there is."""

import json
from pathlib import Path

import gpu
import pytest


@pytest.mark.parametrize("part", sorted(set(gpu.PARTS) - {"pair-3b", "generate-cpu"}))
def test_a_part_measures_and_writes_its_file(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert gpu.main(["--part", part, "--small", "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / f"{part}.json").read_text("utf-8"))
    assert found["error"] is None
    assert found["machine"]["torch"]
    tables = found["tables"]
    if part == "compose":
        assert tables["bytes"][0]["same"] is True
    elif part == "dials":
        assert tables["bits"][0]["wrong"] == []
    elif part == "pair":
        assert tables["agreement"][0]["cosine"] == pytest.approx(1, abs=1e-4)
        assert tables["pair"][0]["trl_tokens"] > tables["pair"][0]["tokens"]
    elif part == "generate":
        assert tables["answers"][0]["tokens_a_second"] > 0
        assert tables["sweep"][0]["seconds"] > 0
    else:
        assert "test_a_gpu_makes_the_same_bytes" in tables["tests"][0]["told"]


def test_a_part_that_outlasts_its_limit_says_so_and_the_next_one_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    parts = ["compose", "dials"]
    assert gpu.main(["--parts", *parts, "--limit", "0.1", "--output", str(tmp_path)]) == 2
    for part in parts:
        assert json.loads((tmp_path / f"{part}.json").read_text("utf-8"))["error"] == (
            "it was ended after 0.1 s"
        )
    assert "[dials] failed" in capfd.readouterr().out


def test_a_part_that_fails_leaves_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gpu.PARTS, "compose", "absent")
    with pytest.raises(ModuleNotFoundError):
        gpu.main(["--part", "compose", "--small", "--output", str(tmp_path)])
    assert "gpu_parts.absent" in json.loads((tmp_path / "compose.json").read_text())["error"]


def test_a_tree_that_is_not_installed_has_its_axes(tmp_path: Path) -> None:
    from importlib.metadata import distributions

    [found] = distributions(path=[str(gpu.write_metadata(tmp_path))])
    assert found.metadata["Name"] == "prefreg"
    assert found.entry_points.select(group="prefreg", name="helpful")
