"""Plots answers per second against the number of workers, from a results folder of `client scaling`.

    target/release/client scaling --servers 1,2,4 --out results/scaling
    python3 examples/scaling_plot.py results/scaling scaling.svg

`capacity.csv` in the folder contains the measurements: the number of servers, the capacity, and the speed-up
with its interval. Needs nothing but Python; for a paper, use any tool you like with the same file.
"""

import csv
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 480, 320, 60, 46, 24, 20


def read(folder):
    """(servers, answers per second) of each line, sorted by servers."""
    with (Path(folder) / "capacity.csv").open() as file:
        rows = [(int(row["servers"]), float(row["capacity/s"])) for row in csv.DictReader(file)]
    if not rows:
        sys.exit(f"{folder}/capacity.csv has no measurement; leave out --capacity 0s")
    return sorted(rows)


def draw(rows):
    """The SVG: the measurements, and the straight line of linear scaling."""
    most, top = rows[-1][0], max(max(rate for _, rate in rows), rows[0][1] / rows[0][0] * rows[-1][0])

    def at(servers, rate):
        x = LEFT + (WIDTH - LEFT - RIGHT) * servers / most
        return f"{x:.1f},{HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * rate / top:.1f}"

    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">'
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    yield f'<path d="M{LEFT},{TOP} V{HEIGHT - BOTTOM} H{WIDTH - RIGHT}" fill="none" stroke="black"/>'
    ideal = " ".join((at(0, 0), at(most, rows[0][1] / rows[0][0] * most)))
    yield f'<polyline points="{ideal}" fill="none" stroke="gray" stroke-dasharray="4 4"/>'
    yield f'<polyline points="{" ".join(at(*row) for row in rows)}" fill="none" stroke="#0072b2" stroke-width="2"/>'
    for servers, rate in rows:
        x, y = at(servers, rate).split(",")
        yield f'<circle cx="{x}" cy="{y}" r="4" fill="#0072b2"><title>{servers}: {rate:.1f}/s</title></circle>'
        yield f'<text x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{servers}</text>'
    for share in (0.5, 1):
        x, y = at(0, top * share).split(",")
        yield f'<text x="{LEFT - 6}" y="{float(y) + 4:.1f}" text-anchor="end">{top * share:.0f}</text>'
    yield f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle">workers</text>'
    yield f'<text x="{LEFT - 46}" y="{TOP - 8}">answers per second (dashed: as many times the first)</text>'
    yield "</svg>"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    rows = read(sys.argv[1])
    Path(sys.argv[2]).write_text("\n".join(draw(rows)) + "\n")
    print(f"{sys.argv[2]}: " + ", ".join(f"{servers} workers {rate:.1f}/s" for servers, rate in rows))


if __name__ == "__main__":
    main()
