"""Prints the skipped tests and checks them: `.ci/run` accepts only skips that tests/skips.txt allows.

    python3 scripts/skips.py LIST            prints them
    python3 scripts/skips.py LIST --strict   exits with 1 if any is not allowed

LIST has one line per skip, `TEST: REASON`, as written by the tests.
"""

import argparse
import fnmatch
import sys
from collections import Counter
from pathlib import Path

ALLOWED = Path(__file__).resolve().parents[1] / "tests" / "skips.txt"


def patterns():
    lines = (line.strip() for line in ALLOWED.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path)
    parser.add_argument("--strict", action="store_true")
    options = parser.parse_args()
    # A test that looks for several things may report each of them.
    lines = sorted(set(options.list.read_text().splitlines())) if options.list.exists() else []
    if not lines:
        print("no test was skipped")
        return 0
    reasons = Counter(line.split(": ", 1)[-1] for line in lines)
    print(f"{len(lines)} skipped:")
    for reason, count in reasons.most_common():
        print(f"  {count:4}  {reason}")
    allowed = patterns()
    unknown = [line for line in lines if not any(fnmatch.fnmatchcase(line, pattern) for pattern in allowed)]
    if options.strict and unknown:
        print("these skips are not allowed by tests/skips.txt:", *unknown, sep="\n  ", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
