"""Checks every link of the documents: linked files and headings exist, and the book leaves out no page.

    python3 scripts/docs/links.py

External addresses are not checked: changes elsewhere must not fail this repository's tests.
"""

import re
import subprocess
import sys
import unicodedata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = re.compile(r"^ {0,6}```.*?^ {0,6}```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
# Pictures embedded as HTML, because they come in a light and a dark version.
PICTURE = re.compile(r"""<(?:img|source)\b[^>]*?\b(?:src|srcset)="([^"\s]+)\"""")
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def documents():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [ROOT / name for name in sorted(set(names)) if (ROOT / name).exists()]


def anchor(heading):
    """The fragment that GitHub and mdBook give a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    kept = (c for c in text.strip().lower() if c in " -_" or unicodedata.category(c)[0] in "LN")
    return "".join(kept).replace(" ", "-")


def anchors(path):
    """Every fragment of a document; repeated headings are numbered."""
    found, seen = set(), {}
    for heading in re.findall(r"^#{1,6}\s+(.*?)\s*#*$", re.sub(r"^ {0,3}```.*?^ {0,3}```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE), re.MULTILINE):
        name = anchor(heading)
        number = seen.get(name, 0)
        seen[name] = number + 1
        found.add(f"{name}-{number}" if number else name)
    return found


def broken(path):
    """What is wrong with the links of a document."""
    text = CODE.sub("", path.read_text())
    for target in LINK.findall(text) + PICTURE.findall(text):
        if ADDRESS.match(target):
            continue
        name, _, fragment = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists():
            yield f"{path.relative_to(ROOT)}: there is no {target}"
        elif ROOT not in file.parents and file != ROOT:
            yield f"{path.relative_to(ROOT)}: {target} is outside of the repository"
        elif fragment and file.suffix == ".md" and fragment not in anchors(file):
            yield f"{path.relative_to(ROOT)}: {name or 'the page'} has no heading #{fragment}"


def left_out():
    """Pages that the book does not list."""
    summary = ROOT / "docs" / "SUMMARY.md"
    listed = {(summary.parent / target).resolve() for target in LINK.findall(summary.read_text())}
    for path in documents():
        if ROOT / "docs" in path.parents and path != summary and path not in listed:
            yield f"docs/SUMMARY.md does not list {path.relative_to(ROOT / 'docs')}"


def main():
    complaints = [one for path in documents() for one in broken(path)] + list(left_out())
    print("\n".join(complaints) or "every link of the documents leads somewhere", file=sys.stderr if complaints else sys.stdout)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
