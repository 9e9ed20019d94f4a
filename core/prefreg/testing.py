"""The conformance kit: whether an axis keeps what prefreg relies on.

In a package's tests:

    from prefreg.testing import assert_conforms

    def test_the_axis_conforms() -> None:
        assert_conforms(AXIS)
"""

from prefreg.authoring.conformance import assert_conforms, check_axis
from prefreg.authoring.pair_checks import AxisCheck, Finding

__all__ = ["AxisCheck", "Finding", "assert_conforms", "check_axis"]
