import pytest

from prefreg import Axis, DataError, LicensedSource, PreferencePair
from prefreg.axes.row_sources import check_licence, forbids_commercial_use


def axis(licence: str | None = None) -> Axis:
    return Axis(
        name="kind",
        summary="",
        sources={
            "hub": LicensedSource(lambda request: [], "org/set", "CC-BY-NC-4.0"),
            "open": LicensedSource(lambda request: [], "org/open", "MIT"),
            "plain": lambda request: [],
        },
        label=PreferencePair.from_row,
        licence=licence,
    )


@pytest.mark.parametrize(
    "licence",
    ["CC-BY-NC-4.0", "cc-by-nc-sa-3.0", "PolyForm-Noncommercial-1.0.0", "research, non-commercial"],
)
def test_a_licence_that_forbids_commercial_use_is_known(licence: str) -> None:
    assert forbids_commercial_use(licence)


@pytest.mark.parametrize("licence", ["MIT", "CC-BY-4.0", "llama3", "Apache-2.0", "NCSA", "CC0-1.0"])
def test_other_licences_need_no_consent(licence: str) -> None:
    assert not forbids_commercial_use(licence)


def test_the_refusal_names_licence_data_set_and_flag() -> None:
    with pytest.raises(DataError) as caught:
        check_licence(axis(), "hub", accepted=False)
    message = str(caught.value)
    assert "\n" not in message
    for word in ("CC-BY-NC-4.0", "org/set", "--accept-licence"):
        assert word in message


def test_what_is_accepted_is_shown_all_the_same() -> None:
    shown = check_licence(axis(), "hub", accepted=True)
    assert shown == "kind: org/set is under CC-BY-NC-4.0, which forbids commercial use (accepted)."


def test_a_source_without_a_licence_of_its_own_has_the_axis_licence() -> None:
    with pytest.raises(DataError, match="source 'plain' is under CC-BY-NC-SA-4"):
        check_licence(axis("CC-BY-NC-SA-4.0"), "plain", accepted=False)
    assert check_licence(axis("CC-BY-NC-SA-4.0"), "open", accepted=False) is None
    assert check_licence(axis(), "plain", accepted=False) is None


def test_an_axis_names_each_licence_once() -> None:
    assert axis().licences == ("CC-BY-NC-4.0", "MIT")
    assert axis("MIT").licences == ("CC-BY-NC-4.0", "MIT")
