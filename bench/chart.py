"""Draws the main figures by commit as one SVG of small panels, without a library; equal results give equal bytes."""

from html import escape

PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 300, 170, 3
LEFT, TOP, RIGHT, BOTTOM = 46, 34, 12, 34
INK, MUTED, GRID = "#24292f", "#6e7781", "#d0d7de"
# Distinguishable without red-green colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


def draw(panels, result):
    """Text of the SVG for the panels of tables.toml, from one result of history.py."""
    rows = -(-len(panels) // COLUMNS)
    width, height = COLUMNS * PANEL_WIDTH, rows * PANEL_HEIGHT + 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="system-ui, sans-serif" role="img" aria-label="Main figures by commit">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for place, panel in enumerate(panels):
        x, y = place % COLUMNS * PANEL_WIDTH, place // COLUMNS * PANEL_HEIGHT
        lines += [f'<g transform="translate({x} {y})">', *panel_lines(panel, result), "</g>"]
    return "\n".join([*lines, "</svg>"]) + "\n"


def series(panel, result):
    """Our points as (index of the commit, value), and the value of each peer measured alongside."""
    found = {figure["of"]: figure["median"] for figure in result["figures"] if figure["what"] == panel["what"]}
    points = [(number, found[commit]) for number, commit in enumerate(commits_of(result)) if commit in found]
    peers = {peer: found[peer] for peer in panel.get("beside", [])}
    if not points:
        raise SystemExit(f"tables.toml: no result for the chart's {panel['title']}")
    return points, peers


def commits_of(result):
    return result["settings"]["commits"].split(", ")


def panel_lines(panel, result):
    points, peers = series(panel, result)
    commits = commits_of(result)
    top = nice(max([value for _, value in points] + list(peers.values())))
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
        yield f'<text x="{across(number):.1f}" y="{PANEL_HEIGHT - 18}" font-size="9" text-anchor="{anchor}" fill="{MUTED}">{commit}</text>'
    legend = LEFT
    for colour, name in zip(COLOURS, ["imagefleet", *peers]):
        yield f'<text x="{legend}" y="27" font-size="9" fill="{colour}">{escape(name)}</text>'
        legend += 5.2 * len(name) + 12
    for colour, (peer, value) in zip(COLOURS[1:], peers.items()):
        y = down(value)
        line = f'<line x1="{LEFT}" x2="{PANEL_WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-dasharray="4 3">'
        yield f"{line}<title>{escape(peer)}: {value:g}</title></line>"
    path = " ".join(f"{across(number):.1f},{down(value):.1f}" for number, value in points)
    yield f'<polyline points="{path}" fill="none" stroke="{COLOURS[0]}" stroke-width="1.5"/>'
    for number, value in points:
        yield f'<circle cx="{across(number):.1f}" cy="{down(value):.1f}" r="2.5" fill="{COLOURS[0]}"><title>{commits[number]}: {value:g}</title></circle>'


def nice(value):
    """The first of … 1, 2, 5, 10, 20 … that is at least `value`."""
    step = 1e-6
    while True:
        for factor in (1, 2, 5):
            if step * factor >= value:
                return round(step * factor, 9)
        step *= 10
