"""The main figures by commit, as one SVG of small panels: no library, and the same bytes from the same results."""

from html import escape

PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 300, 170, 3
LEFT, TOP, RIGHT, BOTTOM = 46, 34, 12, 34
INK, MUTED, GRID = "#24292f", "#6e7781", "#d0d7de"
# Distinguishable without red-green colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


def draw(panels, results):
    """Text of the SVG for the panels of tables.toml."""
    rows = -(-len(panels) // COLUMNS)
    width, height = COLUMNS * PANEL_WIDTH, rows * PANEL_HEIGHT + 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="system-ui, sans-serif" role="img" aria-label="Main figures by commit">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for place, panel in enumerate(panels):
        x, y = place % COLUMNS * PANEL_WIDTH, place // COLUMNS * PANEL_HEIGHT
        lines += [f'<g transform="translate({x} {y})">', *panel_lines(panel, results), "</g>"]
    return "\n".join([*lines, "</svg>"]) + "\n"


def series(panel, results):
    """For each subject its points: (number of the run, value); and the commits of the runs."""
    of_it = [result for result in results if result["experiment"] == panel["experiment"]]
    points = {of: [] for of in panel["of"]}
    commits = []
    for result in of_it:
        found = {f["of"]: f["median"] for f in result["figures"] if f["what"] == panel["what"] and f["of"] in points}
        if not found:
            continue
        for of, value in found.items():
            points[of].append((len(commits), value))
        commits.append(result["commit"] or "?")
    return points, commits


def panel_lines(panel, results):
    points, commits = series(panel, results)
    values = [value for one in points.values() for _, value in one]
    if not values:
        raise SystemExit(f"tables.toml: no result for the chart's {panel['title']}")
    top = nice(max(values))
    inner_width, inner_height = PANEL_WIDTH - LEFT - RIGHT, PANEL_HEIGHT - TOP - BOTTOM

    def across(number):
        return LEFT + (inner_width * number / (len(commits) - 1) if len(commits) > 1 else inner_width / 2)

    def down(value):
        return TOP + inner_height * (1 - value / top)

    yield f'<text x="{LEFT}" y="14" font-size="11" font-weight="600" fill="{INK}">{escape(panel["title"])}</text>'
    for share in (0, 0.5, 1):
        y = down(top * share)
        yield f'<line x1="{LEFT}" x2="{PANEL_WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>'
        yield f'<text x="{LEFT - 5}" y="{y + 3:.1f}" font-size="9" text-anchor="end" fill="{MUTED}">{top * share:g}</text>'
    for number, commit in enumerate(commits):
        anchor = "middle" if len(commits) == 1 else "start" if number == 0 else "end" if number == len(commits) - 1 else "middle"
        if anchor != "middle" or len(commits) < 5:
            yield f'<text x="{across(number):.1f}" y="{PANEL_HEIGHT - 18}" font-size="9" text-anchor="{anchor}" fill="{MUTED}">{commit}</text>'
    legend = LEFT
    for colour, (of, one) in zip(COLOURS, points.items()):
        path = " ".join(f"{across(number):.1f},{down(value):.1f}" for number, value in one)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        for number, value in one:
            yield f'<circle cx="{across(number):.1f}" cy="{down(value):.1f}" r="2.5" fill="{colour}"><title>{escape(of)}: {value:g}</title></circle>'
        yield f'<text x="{legend}" y="27" font-size="9" fill="{colour}">{escape(of)}</text>'
        legend += 5.2 * len(of) + 12


def nice(value):
    """The next of 1, 2, 5, 10, 20 … that is not below it."""
    step = 1e-6
    while True:
        for factor in (1, 2, 5):
            if step * factor >= value:
                return round(step * factor, 9)
        step *= 10
