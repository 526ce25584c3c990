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


def test_the_loads_of_the_five_projects_are_answered_and_right(start_fleet, tmp_path):
    balancer = start_fleet(1)
    least = {"seed-geni": None, "seed-mnist": 1.0, "seed-digit": 1.0, "seed-iris": 0.9}
    for name, share in least.items():
        command = [TARGET / "client", "load", "--target", balancer.url, "--workload", name, "--json", "--warm-up", "0s"]
        rate = ["--arrivals", "uniform", "--rate", "50", "--duration", "3001ms", "--out", tmp_path / name]
        result = subprocess.run([*command, *rate], capture_output=True, text=True, timeout=60)
        summary = json.loads(result.stdout)
        assert summary["outcomes"] == {"200": summary["requests"]}, (name, result.stderr)
        accuracy = summary["accuracy"]
        assert (accuracy is None) if share is None else (accuracy["share"] >= share), (name, accuracy)


@pytest.mark.parametrize("program", ["balancer", "worker", "client"])
def test_every_program_completes_and_describes_itself(program, tmp_path):
    words = subprocess.run([TARGET / program, "completions", "bash"], capture_output=True, text=True, check=True).stdout
    assert f"complete -F _{program}" in words and "--log" in words
    subprocess.run([TARGET / program, "man", tmp_path / "man1"], check=True)
    assert (tmp_path / "man1" / f"{program}.1").is_file()
    # A reader that closes the pipe early is not a failure.
    piped = f"'{TARGET / program}' completions zsh | head -1"
    assert subprocess.run(piped, shell=True, capture_output=True, text=True, timeout=20).stderr == ""
