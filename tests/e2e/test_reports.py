"""Reports as people see them: on a phone, in the dark, and read aloud."""

import subprocess

from conftest import TARGET

# Relative luminance of the background, by what the browser shows.
LUMINANCE = """
const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).map(Number);
return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
"""


def test_a_report_can_be_read_on_a_phone_in_the_dark_and_aloud(start_fleet, browse, tmp_path):
    balancer = start_fleet(1)
    command = [TARGET / "client", "load", "--target", balancer.url, "--rate", "50", "--duration", "1500ms"]
    run = [*command, "--warm-up", "0s", "--quantile", "0.5", "--fail", "p50>1h", "--out", tmp_path / "run"]
    # Whether a busy machine lets it be valid is another question.
    subprocess.run(run, capture_output=True, timeout=60)
    url = (tmp_path / "run" / "report.html").as_uri()
    for dark in (False, True):
        page = browse(url, width=320, height=640, dark=dark)
        assert page.script("return document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off"
        # A row is a block of lines there, each with the name of its column.
        assert page.script("return getComputedStyle(document.querySelector('tbody tr')).display") == "block"
        assert (page.script(LUMINANCE) < 0.2) == dark
        assert page.violations() == []
        assert page.complaints() == []
    wide = browse(url)
    assert wide.script("return getComputedStyle(document.querySelector('tbody tr')).display") == "table-row"
    assert wide.script("return performance.getEntriesByType('resource').length") == 0, "it is one file"
