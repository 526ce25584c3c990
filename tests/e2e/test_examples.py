"""The examples run unchanged against a service, and print what they should."""

import csv
import os
import re
import shutil
import subprocess
import sys
import xml.dom.minidom

import pytest
from conftest import TARGET
from fleet import ROOT

EXAMPLES = ROOT / "examples"
SEVEN = "docs/seven.png"


def run(balancer, *command):
    env = os.environ | {"IMAGEFLEET": balancer.url}
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_curl(balancer):
    said = run(balancer, EXAMPLES / "curl.sh")
    assert '"7"' in said and '"predicted_species"' in said and '"predictions"' in said and '"READY"' in said


def test_python_requests(balancer):
    said = run(balancer, sys.executable, EXAMPLES / "python_requests.py", SEVEN, SEVEN)
    assert len(re.findall(r"seven\.png: 7 \(\d+\.\d%\), mnist on worker\d", said)) == 2


def test_python_tritonclient(balancer):
    pytest.importorskip("tritonclient.http", reason="SKIPPED: tritonclient is not installed")
    said = run(balancer, sys.executable, EXAMPLES / "python_tritonclient.py")
    assert "probabilities: (4, 10)" in said and "digit: 7" in said


def test_javascript_fetch(balancer):
    node = shutil.which("node")
    if not node:
        pytest.skip("SKIPPED: no Node (Debian: apt install nodejs)")
    said = run(balancer, node, EXAMPLES / "javascript_fetch.mjs", SEVEN)
    assert re.match(r"7 +\d+\.\d %\n", said) and "mnist on worker" in said


def test_rust(balancer):
    said = run(balancer, TARGET / "example", balancer.address, SEVEN, SEVEN)
    assert len(re.findall(r"seven\.png: 7 \(\d+\.\d %\)", said)) == 2
    text = run(balancer, TARGET / "example", balancer.address)
    assert text == ""


def test_the_scaling_plot_draws_what_was_measured(tmp_path):
    with (tmp_path / "capacity.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["servers", "capacity/s", "speed-up", "from", "to", "ideal"])
        rows.writerows([[1, 50.0, 1, "", "", 1], [2, 96.5, 1.93, 1.9, 2.0, 2], [4, 180.25, 3.6, 3.5, 3.8, 4]])
    picture = tmp_path / "scaling.svg"
    done = subprocess.run(
        [sys.executable, EXAMPLES / "scaling_plot.py", tmp_path, picture], capture_output=True, text=True, check=True
    )
    assert "4 workers 180.2/s" in done.stdout
    titles = [title.firstChild.data for title in xml.dom.minidom.parse(str(picture)).getElementsByTagName("title")]
    assert titles == ["1: 50.0/s", "2: 96.5/s", "4: 180.2/s"]
    assert ">4</text>" in picture.read_text()


def test_every_example_is_in_the_list_of_examples():
    listed = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.name != "README.md" and path.name != "__pycache__":
            assert f"({path.name}" in listed, path.name
