"""What benchmarks compute from their measurements."""

import sys

from fleet import ROOT

sys.path.insert(0, str(ROOT / "bench"))
from wrk import corrected  # noqa: E402


def test_a_long_request_counts_again_for_those_that_might_have_been_sent_meanwhile():
    # Two connections for 4 s, and a request each second: one every 1,000 ms.
    usual = [5.0] * 7
    assert corrected([*usual, 4300.0], 2, 4) == [*usual, 1300.0, 2300.0, 3300.0, 4300.0]
    # A time below two intervals adds nothing, nor does a remainder of at most one interval.
    assert corrected([*usual, 1900.0], 2, 4) == [*usual, 1900.0]
    assert corrected([*usual, 3000.0], 2, 4) == [*usual, 2000.0, 3000.0]
