"""Draws how a service fared over the course of a run as one SVG of panels, without a library; equal results give
equal bytes. A result with a timeline has `series`: the columns of each run, `second` first."""

from html import escape

from chart import COLOURS, GRID, INK, MUTED, nice

PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 450, 190, 2
LEFT, TOP, RIGHT, BOTTOM = 52, 34, 12, 28


def draw(timeline, result):
    """Text of the SVG for a timeline of tables.toml."""
    panels = timeline["panels"]
    width, height = COLUMNS * PANEL_WIDTH, -(-len(panels) // COLUMNS) * PANEL_HEIGHT + 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' font-family="system-ui, sans-serif" role="img" aria-label="{escape(timeline["title"])}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for place, panel in enumerate(panels):
        x, y = place % COLUMNS * PANEL_WIDTH, place // COLUMNS * PANEL_HEIGHT
        lines += [f'<g transform="translate({x} {y})">', *panel_lines(panel, result["series"]), "</g>"]
    return "\n".join([*lines, "</svg>"]) + "\n"


def panel_lines(panel, series):
    column = panel["column"]
    last = max(one["second"][-1] for one in series.values())
    top = nice(max(value for one in series.values() for value in one[column] if value is not None) or 1)
    inner_width, inner_height = PANEL_WIDTH - LEFT - RIGHT, PANEL_HEIGHT - TOP - BOTTOM

    def across(second):
        return LEFT + inner_width * second / last

    def down(value):
        return TOP + inner_height * (1 - value / top)

    yield f'<text x="{LEFT}" y="14" font-size="11" font-weight="600" fill="{INK}">{escape(panel["title"])}</text>'
    for share in (0, 0.5, 1):
        y = down(top * share)
        yield f'<line x1="{LEFT}" x2="{PANEL_WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>'
        yield f'<text x="{LEFT - 5}" y="{y + 3:.1f}" font-size="9" text-anchor="end" fill="{MUTED}">{top * share:g}</text>'
    for minute in range(int(last // 60) + 1):
        yield f'<text x="{across(60 * minute):.1f}" y="{PANEL_HEIGHT - 14}" font-size="9" text-anchor="middle" fill="{MUTED}">{minute} min</text>'
    legend = LEFT
    for colour, (name, one) in zip(COLOURS, series.items()):
        for points in unbroken(one["second"], one[column]):
            path = " ".join(f"{across(second):.1f},{down(value):.1f}" for second, value in points)
            yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        yield f'<text x="{legend}" y="27" font-size="9" fill="{colour}">{escape(name)}</text>'
        legend += 5.2 * len(name) + 12


def unbroken(seconds, values):
    """Splits a curve into its stretches without missing values."""
    points = []
    for second, value in [*zip(seconds, values, strict=True), (None, None)]:
        if value is not None:
            points.append((second, value))
        elif points:
            yield points
            points = []
