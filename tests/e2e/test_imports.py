"""Imports of every Rust file are in three groups: the standard library, other crates, this crate. Stable rustfmt keeps
groups but creates none; nightly does:

    cargo +nightly fmt --all -- --config group_imports=StdExternalCrate
"""

import re
import subprocess

from fleet import ROOT

IMPORT = re.compile(r"(?:pub(?:\([^)]*\))? )?use :{0,2}(\w+)")


def group(crate):
    return {"std": 0, "core": 0, "alloc": 0, "crate": 2, "super": 2, "self": 2}.get(crate, 1)


def out_of_order(text):
    """Imports that come after a later group, lack an empty line between groups, or have one within a group."""
    last, is_apart, is_inside = None, False, False
    for line in map(str.strip, text.splitlines()):
        if is_inside:
            is_inside = not line.endswith(";")
        elif match := IMPORT.match(line):
            this = group(match[1])
            if last is not None and (this < last or (this != last) != is_apart):
                yield line
            last, is_apart, is_inside = this, False, not line.endswith(";")
        elif not line:
            is_apart = True
        elif not line.startswith(("#[", "//")):
            last = None


def test_imports_stand_in_three_groups():
    assert list(out_of_order("use std::fs;\n\nuse http::{\n    Uri,\n};\n\npub use crate::a;\nuse super::b;\nmod c;\nuse std::io;\n")) == []
    for wrong in ("use http::Uri;\n\nuse std::fs;\n", "use std::fs;\nuse http::Uri;\n", "use crate::a;\n\nuse super::b;\n"):
        assert len(list(out_of_order(wrong))) == 1, wrong
    listed = subprocess.run(["git", "ls-files", "*.rs"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    found = {path: list(out_of_order((ROOT / path).read_text())) for path in listed if (ROOT / path).is_file()}
    assert {path: lines for path, lines in found.items() if lines} == {}
