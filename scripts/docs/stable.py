"""Finds stable names of the last release that are gone: flags, variables, metrics, routes, log messages, keys.

    python3 scripts/docs/stable.py           what is gone since the last tag and not in the changelog's newest section
    python3 scripts/docs/stable.py v0.2.0    the same since that tag

The reference pages are made from the code, so those of the tag state what existed. Whatever is gone must be named in
the changelog; CONTRIBUTING.md states how long it must keep working first.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = "docs/reference"


def git(root, *words):
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout


def last_tag(root):
    """The newest released version; `None` before the first."""
    tags = git(root, "tag", "--list", "v*", "--sort=-version:refname").split()
    return next((tag for tag in tags if "-" not in tag), None)


def names(page, text):
    """The names that a reference page lists, each with its heading."""
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.strip("# ")
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) < 2 or set(cells[0]) <= {"-"}:
            continue
        if page == "logs":
            yield heading, cells[1]
        elif span := re.match(r"`([^`\s]+)", cells[0]):
            yield heading, span[1]
            # Flags have a variable in the next column.
            if variable := re.fullmatch(r"`([A-Z][A-Z_]+)`", cells[1]):
                yield heading, variable[1]


def listed(pages):
    return {(page, *one) for page, text in pages.items() for one in names(page, text)}


def now(root):
    return {path.stem: path.read_text() for path in (root / PAGES).glob("*.md")}


def then(root, tag):
    files = git(root, "ls-tree", "--name-only", tag, f"{PAGES}/").split()
    return {Path(name).stem: git(root, "show", f"{tag}:{name}") for name in files if name.endswith(".md")}


def newest(changelog):
    """The first section that lists anything."""
    sections = re.split(r"^## \[", changelog, flags=re.MULTILINE)[1:]
    return next((section for section in sections if re.search(r"^- ", section, re.MULTILINE)), "")


def gone(root, tag):
    """Names of the release that are in neither the current pages nor the newest section of the changelog."""
    changelog = newest((root / "CHANGELOG.md").read_text())
    # A setting of every command is not gone if its page still names it under another heading.
    left = listed(now(root))
    anywhere = {(page, name) for page, _, name in left}
    for page, heading, name in sorted(listed(then(root, tag)) - left):
        if (page, name) not in anywhere and name not in changelog:
            yield f"{heading}: {name}"


def main():
    tag = sys.argv[1] if len(sys.argv) > 1 else last_tag(ROOT)
    if tag is None:
        print("nothing was released yet")
        return 0
    found = list(gone(ROOT, tag))
    for one in found:
        print(f"{one} is gone since {tag}, and CHANGELOG.md does not say so", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
