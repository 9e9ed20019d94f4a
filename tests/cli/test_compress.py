from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
Refuse = Callable[..., str]


@pytest.fixture
def compress(run: Run, own: Path) -> Run:
    """Compress a version of the test's own registry."""
    return lambda *options: run("--registry", own, "compress", *options, "--json")


def test_a_compressed_version_composes_copies_and_answers(
    run: Run, compress: Run, own: Path, tmp_path: Path
) -> None:
    made = compress("helpful@1", "--int8", "--note", "smaller").data
    assert (made["version"], made["kind"], made["dtype"]) == (2, "int8", "I8")
    assert made["note"] == "smaller"
    found = made["compression"]
    assert (found["of"], found["how"], found["int8"]) == ("helpful@1", "int8", True)
    assert found["relative_error"] < 0.01
    assert found["cosine"] == pytest.approx(1, abs=1e-4)
    margin = found["margin"]
    assert margin["pairs"] > 0
    assert margin["kept"] == pytest.approx(1, abs=0.1)
    assert run("--registry", own, "verify").code == 0
    assert run("--registry", own, "compose", "helpful@2:1", "verbosity:0.5", "-o", "out").code == 0
    answer = ("generate", "helpful@2:1", "--prompt", "Which colour is Elsa's boat?")
    assert run("--registry", own, *answer).code == 0
    assert run("--registry", own, "copy", "helpful@2", "--to", tmp_path / "other.db").code == 0
    cosine = run("--registry", own, "diff", "helpful@1", "helpful@2", "--json").data["cosine"]
    assert cosine == pytest.approx(found["cosine"])


def test_a_bare_name_means_no_form_of_a_version_unless_promoted(
    compress: Run, run: Run, own: Path
) -> None:
    def meant() -> int:
        return run("--registry", own, "--no-starter", "show", "helpful", "--json").data["version"]

    assert compress("helpful", "--rank", "1").data["tags"] == ["form-of/1"]
    assert meant() == 1
    assert "form of helpful@1" in run("--registry", own, "vectors", "helpful").out
    assert "--promote makes it what 'helpful' means" in (
        run("--registry", own, "compress", "helpful", "--rank", "2").out
    )
    assert compress("helpful", "--dtype", "bf16", "--promote").data["tags"] == []
    assert meant() == 4
    assert run("--registry", own, "tag", "helpful@2", "form-of/1", "--delete").code == 0
    assert run("--registry", own, "rm", "helpful@4").code == 0
    assert meant() == 2


def test_a_compressed_version_can_be_compressed_again(compress: Run, run: Run, own: Path) -> None:
    first = compress("verbose", "--topk", "0.25").data
    assert (first["axis"], first["kind"], first["dtype"]) == ("verbosity", "sparse", "F32")
    second = compress("verbosity@2", "--rank", "2").data
    assert second["kind"] == "low-rank"
    assert second["compression"]["before"] == first["compression"]
    dropped = second["compression"]["dropped"]
    assert "model.norm.weight" in dropped["weights"]
    assert 0 < dropped["share_of_error"] < 1
    third = run("--registry", own, "compress", "verbosity@1", "--rank", "1")
    assert "weights that are no matrices" in third.out
    assert "held-out margin" in third.out


def test_the_record_goes_on_with_the_training_and_the_contrast(
    compress: Run, run: Run, own: Path
) -> None:
    compress("helpful@1", "--dtype", "bf16")
    one, two = (
        run("--registry", own, "show", f"helpful@{n}", "--json").data["metadata"] for n in (1, 2)
    )
    assert {key: two[key] for key in ("data", "training", "poles")} == {
        key: one[key] for key in ("data", "training", "poles")
    }
    assert two["geometry"]["norm"] == pytest.approx(one["geometry"]["norm"], rel=1e-3)


def test_a_margin_that_cannot_be_measured_says_why(
    compress: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFREG_LOAD_PLUGINS", "")
    margin = compress("helpful@1", "--dtype", "bf16").data["compression"]["margin"]
    assert list(margin) == ["reason"]
    assert "No axis 'helpful'" in margin["reason"]


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("helpful",), 2, "Give exactly one of"),
        (("helpful", "--int8", "--rank", "2"), 2, "Give exactly one of"),
        (("helpful", "--rank", "0"), 2, "A rank is 1 or more, not 0"),
        (("helpful", "--topk", "0"), 2, "--topk is a share above 0"),
        (("helpful", "--topk", "1.5"), 2, "--topk is a share above 0"),
        (("helpful", "--topk", "nan"), 2, "out of measure"),
        (("helpful", "--dtype", "float32"), 2, "'float32' is no smaller storage"),
        (("helpful", "--dtype", "int4"), 2, "'int4' is no dtype"),
        (("kindness", "--int8"), 1, "kindness"),
        (("helpful@7", "--int8"), 1, "helpful"),
        (("helpful:1", "--int8"), 2, "helpful:1"),
    ],
)
def test_wrong_usage_is_told(
    refuse: Refuse, own: Path, arguments: tuple[str, ...], code: int, reason: str
) -> None:
    assert reason in refuse(code, "--registry", own, "compress", *arguments)


def test_a_registry_that_is_not_there_is_not_made(refuse: Refuse, tmp_path: Path) -> None:
    reason = refuse(1, "--registry", tmp_path / "none.db", "compress", "helpful", "--int8")
    assert "There is no registry" in reason
