#!/usr/bin/env python3
"""Makes the pictures of digits/ beside this file, as people draw: dark on paper, and white on a dark board.

    pip install Pillow==11.3.0 && python3 worker/tests/data/digits.py
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2] / "tests" / "e2e"))

from pictures import STROKES, digit  # noqa: E402


def main():
    folder = HERE / "digits"
    folder.mkdir(exist_ok=True)
    for number in STROKES:
        digit(number, size=140).save(folder / f"{number}_paper.png", optimize=True)
        digit(number, size=96, ink=230, paper=25).save(folder / f"{number}_board.png", optimize=True)


if __name__ == "__main__":
    main()
