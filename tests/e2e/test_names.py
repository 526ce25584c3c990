"""Names and words: a public type has a unique name within its crate, so that a reader need not ask which one is
meant; and operators see nothing that only a programmer of this project understands."""

import re
import subprocess
from collections import defaultdict

from fleet import ROOT

# One per command, or one per protocol or implementation of the same thing.
REPEATED = {
    "client": {"Args", "Command", "Findings"},
    "engine": {"Network", "Scratch"},
    "message": {"Request", "Verb"},
    "worker": {"Args", "Command"},
}
# Names that several crates share. Those on the first line are what every program calls such a thing, and the networks
# are a reference beside its fast twin; new names do not belong here.
SHARED = {
    *("Args", "Cli", "Command", "Config", "Error", "Metrics", "Options", "Settings"),
    *("MnistCnn", "MobileNetV2", "Network"),
    *("Answer", "Bound", "Cause", "Cell", "Change", "Destination", "Entry", "Estimate", "Failure", "Image", "Kind", "Limits"),
    *("Manifest", "Membership", "Model", "Order", "Outcome", "Part", "Picture", "Point", "Protocol", "Reading", "Reason", "Refusal"),
    *("Reply", "Resize", "Rules", "Snapshot", "State", "Status", "Step", "Table", "Target", "Tls", "Verdict", "Version"),
}
# The same names, for platforms on which there is nothing to take over.
TWINS = {"balancer/src/server/no_takeover.rs"}
PUBLIC = re.compile(r"^\s*pub (?:struct|enum|trait|union|type) (\w+)", re.MULTILINE)


def crates():
    """The source files of each crate, without tests."""
    found = defaultdict(list)
    listed = subprocess.run(["git", "ls-files", "*/src/*.rs"], cwd=ROOT, capture_output=True, text=True, check=True)
    for path in listed.stdout.split():
        crate, _, module = path.partition("/src/")
        if path not in TWINS and "tests" not in module:
            found[crate].append(path)
    return found


def public_types(paths):
    """The files of each public type."""
    places = defaultdict(set)
    for path in paths:
        text = (ROOT / path).read_text().split("#[cfg(test)]\nmod tests {")[0]
        for name in PUBLIC.findall(text):
            places[name].add(path)
    return places


def test_public_types_have_names_of_their_own_within_a_crate():
    repeated = []
    for crate, paths in crates().items():
        places = public_types(paths)
        repeated += [
            f"{name}: {', '.join(sorted(found))}"
            for name, found in places.items()
            if len(found) > 1 and name not in REPEATED.get(crate, ())
        ]
    assert not repeated


def test_no_further_crates_share_the_name_of_a_public_type():
    owners = defaultdict(set)
    for crate, paths in crates().items():
        for name in public_types(paths):
            owners[name].add(crate)
    assert {name for name, found in owners.items() if len(found) > 1} - SHARED == set()


EVENT = re.compile(r"\b(?:error|warn|info|debug|trace)!\((.*?)\);", re.DOTALL)


def test_no_event_shows_what_rust_prints_for_programmers():
    shown = []
    for path in [path for paths in crates().values() for path in paths]:
        for event in EVENT.findall((ROOT / path).read_text()):
            without_text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', event)
            if re.search(r"(?:^|[,=(])\s*\?\w", without_text) or re.search(r"\{\w*:#?\?\}", event):
                shown.append(f"{path}: {event.strip()}")
    assert not shown
