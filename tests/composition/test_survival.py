import pytest
import torch

from prefreg.composition.survival import Survival, SurvivalMeter


def test_survival_worked_by_hand() -> None:
    # At 1 the step of bfloat16 is 2⁻⁷: a change of 2⁻⁹ is lost, one of 3·2⁻⁹ becomes 4·2⁻⁹.
    base = torch.ones(4, dtype=torch.bfloat16)
    phi = torch.tensor([2.0**-9, 3 * 2.0**-9, 2.0**-7, 0.0])
    result = (base.float() + phi).bfloat16()
    meter = SurvivalMeter()
    meter.add([(1.0, phi)], base, result)
    gain = (3 * 4 + 4 * 4) / (1 + 9 + 16)
    assert meter.result() == Survival(changed=0.666667, gain=round(gain, 6))


def test_blocks_add_up_and_terms_are_summed() -> None:
    base, phi = torch.zeros(6), torch.arange(6.0)
    meter = SurvivalMeter()
    for start in (0, 3):
        part = slice(start, start + 3)
        terms = [(1.0, phi[part]), (-0.5, phi[part])]
        meter.add(terms, base[part], phi[part] * 0.25)
    assert meter.result() == Survival(changed=1.0, gain=0.5)


def test_nothing_requested_is_nothing_measured() -> None:
    meter = SurvivalMeter()
    assert meter.result() is None
    meter.add([(1.0, torch.zeros(2))], torch.ones(2), torch.ones(2))
    assert meter.result() is None


@pytest.mark.parametrize(("gain", "faithful"), [(0.95, True), (0.949, False)])
def test_a_low_gain_is_not_faithful(gain: float, faithful: bool) -> None:
    assert Survival(changed=0.5, gain=gain).faithful is faithful
