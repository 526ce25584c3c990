"""The load generator against the real balancer and a real worker, over both versions of HTTP."""

import json
import subprocess

import pytest

from conftest import TARGET


@pytest.mark.parametrize("http", ["http1", "h2"])
def test_load_is_answered_over_either_version_of_http(start_fleet, tmp_path, http):
    balancer = start_fleet(1, "--h2c")
    command = [TARGET / "client", "load", "--target", balancer.url, "--http", http, "--json", "--quantile", "0.5"]
    rate = ["--rate", "50", "--duration", "2s", "--warm-up", "0s", "--out", tmp_path / "run"]
    result = subprocess.run([*command, *rate], capture_output=True, text=True, timeout=60)
    summary = json.loads(result.stdout)
    assert summary["outcomes"] == {"200": summary["requests"]}, result.stderr
    assert summary["requests"] > 50
    assert sum(summary["endpoints"].values()) == summary["requests"]
