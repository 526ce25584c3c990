"""Reports as people see them: on a phone, in dark mode, and read aloud."""

import subprocess

from conftest import TARGET

# Luma of the background, as the browser shows it.
LUMINANCE = """
const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).map(Number);
return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
"""


def test_a_report_can_be_read_on_a_phone_in_the_dark_and_aloud(start_fleet, browse, tmp_path):
    balancer = start_fleet(1)
    command = [TARGET / "client", "load", "--target", balancer.url, "--rate", "50", "--duration", "1500ms"]
    run = [*command, "--warm-up", "0s", "--quantile", "0.5", "--fail", "p50>1h", "--out", tmp_path / "run"]
    # On a busy machine the run may not be valid, which does not matter here.
    subprocess.run(run, capture_output=True, timeout=60)
    url = (tmp_path / "run" / "report.html").as_uri()
    for dark in (False, True):
        page = browse(url, width=320, height=640, dark=dark)
        assert page.script("return document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off"
        # At this width a row is a block of lines, each with the name of its column.
        assert page.script("return getComputedStyle(document.querySelector('tbody tr')).display") == "block"
        assert (page.script(LUMINANCE) < 0.2) == dark
        assert page.violations() == []
        assert page.complaints() == []
    wide = browse(url)
    assert wide.script("return getComputedStyle(document.querySelector('tbody tr')).display") == "table-row"
    assert wide.script("return performance.getEntriesByType('resource').length") == 0, "it is one file"
