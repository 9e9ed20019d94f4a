"""A short part of `make attack`: readers that load no model, in this process."""

import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "attack"
sys.path.append(str(TOOL))

from cases import Attempts  # noqa: E402
from mutations import mutate_json, mutate_safetensors  # noqa: E402

CASES = {"terms": 100, "yaml": 60, "rows": 80, "records": 40, "ggufs": 60}
"""Of the kinds that are quick to prepare."""


@pytest.mark.filterwarnings("ignore")  # of the libraries, at what was damaged
@pytest.mark.parametrize("kind", CASES)
def test_every_mutated_input_is_read_or_refused_in_one_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("PREFREG_CACHE", "PREFREG_CONFIG"):
        monkeypatch.setenv(name, "")
    attempts = Attempts(kind, seed=1, folder=tmp_path / kind)
    outcomes = [attempts.attempt(case) for case in range(CASES[kind])]
    failed = [(each.case, each.what, each.told) for each in outcomes if ":" in each.what]
    assert failed == []
    assert "refused" in {each.what for each in outcomes}


def test_a_change_to_a_header_keeps_the_tensors() -> None:
    from random import Random

    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    data = len(header).to_bytes(8, "little") + header + b"\1\2\3\4"
    changed = {mutate_safetensors(data, Random(seed)) for seed in range(50)}
    assert len(changed) > 25
    assert all(each.endswith(b"\1\2\3\4") for each in changed)
    assert mutate_json(b'{"a": 1}', Random(0)) != mutate_json(b'{"a": 1}', Random(1))
