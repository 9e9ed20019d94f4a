"""A short part of `make attack`: every reader, in this process."""

import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "attack"
sys.path.append(str(TOOL))

from mutations import mutate_json, mutate_safetensors  # noqa: E402
from readers import READERS  # noqa: E402
from worker import Attempts  # noqa: E402

CASES = {"bases": 5, "adapters": 15, "bodies": 15, "bundles": 10, "recipes": 15, "registries": 3}


@pytest.mark.filterwarnings("ignore")  # of the libraries, at what was damaged
@pytest.mark.parametrize("kind", READERS)
def test_every_mutated_input_is_read_or_refused_in_one_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("PREFREG_CACHE", "PREFREG_CONFIG"):
        monkeypatch.setenv(name, "")
    attempts = Attempts(kind, seed=1, folder=tmp_path / kind)
    outcomes = [attempts.attempt(case) for case in range(CASES.get(kind, 40))]
    failed = [(each.case, each.what, each.told) for each in outcomes if ":" in each.what]
    assert failed == []
    assert {each.what for each in outcomes} == {"accepted", "refused"}


def test_a_change_to_a_header_keeps_the_tensors() -> None:
    from random import Random

    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    data = len(header).to_bytes(8, "little") + header + b"\1\2\3\4"
    changed = {mutate_safetensors(data, Random(seed)) for seed in range(50)}
    assert len(changed) > 25
    assert all(each.endswith(b"\1\2\3\4") for each in changed)
    assert mutate_json(b'{"a": 1}', Random(0)) != mutate_json(b'{"a": 1}', Random(1))
