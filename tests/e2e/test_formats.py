"""Formats that others read are stable: keys may be added, but may neither go nor change their kind.

`IMAGEFLEET_FORMATS=write` records new keys in formats.json; a recorded key is a promise until it has been deprecated
(see CONTRIBUTING.md).
"""

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import requests
from conftest import TARGET
from fleet import ROOT

PROMISED = Path(__file__).with_name("formats.json")
# Objects whose keys are names of endpoints and outcomes.
MAPS = {"summary.json": {"endpoints", "outcomes"}}
KINDS = {dict: "object", list: "list", str: "text", bool: "boolean", int: "number", float: "number", type(None): "null"}


def shape(value, maps=(), path=""):
    """Every place in a document with its kinds: `endpoints[].name` is a text. Keys of `maps` all count as one place."""
    kind = KINDS[type(value)]
    found = {path: {kind}} if path else {}
    if kind == "object":
        for key, inner in value.items():
            name = "*" if path in maps else key
            for place, kinds in shape(inner, maps, f"{path}.{name}".lstrip(".")).items():
                found.setdefault(place, set()).update(kinds)
    elif kind == "list":
        for inner in value:
            for place, kinds in shape(inner, maps, f"{path}[]").items():
                found.setdefault(place, set()).update(kinds)
    return found


@pytest.fixture(scope="module")
def documents(start, tmp_path_factory):
    """One document of each format, from a service that has answered requests."""
    worker = start("worker", "serve", "--listen", "127.0.0.1:0", "--models", "models")
    balancer = start("balancer", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--worker", worker.address)
    admin = balancer.wait_for(r"admin on (\S+)")
    out = tmp_path_factory.mktemp("results") / "load"
    load = ["load", "--target", balancer.url, "--rate", "40", "--duration", "2s", "--warm-up", "0s", "--out", out]
    done = subprocess.run([TARGET / "client", *load], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 3), done.stderr
    with (out / "samples.csv").open() as file:
        columns = file.readline().strip().split(",")
    seven = (ROOT / "docs" / "seven.png").read_bytes()
    whole = {"Accept": "application/json"}
    answer = requests.post(f"{balancer.url}/predict?model=mnist", data=seven, headers=whole, timeout=30)
    return {
        "/fleet.json": requests.get(f"{admin}/fleet.json", timeout=10).json(),
        "/predict": answer.json(),
        "/v2/repository/index": requests.post(f"{balancer.url}/v2/repository/index", timeout=10).json(),
        "summary.json": json.loads((out / "summary.json").read_text()),
        "manifest.json": json.loads((out / "manifest.json").read_text()),
        "samples.csv": dict.fromkeys(columns, ""),
    }


def test_formats_keep_what_they_have(documents):
    found = {name: shape(document, MAPS.get(name, ())) for name, document in documents.items()}
    if os.environ.get("IMAGEFLEET_FORMATS") == "write":
        written = {name: {place: sorted(kinds) for place, kinds in sorted(places.items())} for name, places in found.items()}
        PROMISED.write_text(json.dumps(written, indent=1) + "\n")
    promised = json.loads(PROMISED.read_text())
    assert found.keys() == promised.keys()
    for name, places in promised.items():
        for place, kinds in places.items():
            assert place in found[name], f"{name} has no {place} any more"
            changed = found[name][place] - set(kinds) - {"null"}
            assert not changed or kinds == ["null"], f"{name}: {place} was {kinds} and is {changed}"


@pytest.mark.parametrize("program", ["balancer", "client", "worker"])
def test_a_program_says_its_version_and_how_it_was_built(program):
    said = subprocess.run([TARGET / program, "--version"], capture_output=True, text=True, check=True).stdout
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    assert re.fullmatch(rf"{program} {re.escape(version)} \(((commit [0-9a-f]{{12}})?(, )?(features .+)?|development build)\)\n", said), said
