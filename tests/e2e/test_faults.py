"""Workers and balancers that die, stall, drain and restart under load: what clients see of it.

The faults of `scripts/faults.sh` with less load and real processes; no request may be lost.
"""

import os
import sys

import pytest

from conftest import PROFILE
from fleet import ROOT

os.environ.setdefault("IMAGEFLEET_PROFILE", PROFILE)
sys.path.insert(0, str(ROOT / "scripts" / "proxylab"))
import faults  # noqa: E402
from proxies import Imagefleet  # noqa: E402

PLAN = faults.Plan(rate=100, before=1, after=8)


@pytest.mark.parametrize("name", faults.FAULTS)
def test_a_fault_costs_no_request(name, monkeypatch):
    monkeypatch.setattr(Imagefleet, "extra", ())
    result = faults.trial(Imagefleet, name, PLAN)
    print(result)
    assert result["requests"] == PLAN.rate * (PLAN.before + PLAN.after)
    if name == "freeze":
        # Requests that wait for a frozen worker move on when its probes fail, and not before.
        assert result["later_than_6_s"] == 0, result
    else:
        assert result["failures"] == 0, result
