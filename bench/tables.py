"""Makes the tables and the chart of the documents from bench/results, or checks that they are up to date.

    python3 bench/tables.py            writes them
    python3 bench/tables.py --check    exits with 1 if a document differs from the results,
                                       or has a figure outside the tables made from them
    python3 bench/tables.py --figures  prints the figures that are in sentences, in the format of constants.txt

In a document, a table goes between `<!-- results: NAME -->` and `<!-- end of results -->`;
NAME is a table of tables.toml.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import chart
import timeline

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "bench"
CHART = ROOT / "docs" / "history.svg"
BLOCK = re.compile(r"(<!-- results: ([a-z0-9-]+) -->\n).*?(<!-- end of results -->)", re.DOTALL)
GENERATED = re.compile(r"<!-- (results|reference): .*?<!-- end of \1 -->", re.DOTALL)
# Numbers in code are for typing and are not figures; nor are those in links and names of pictures.
CODE = re.compile(r"^ {0,6}```.*?^ {0,6}```|`[^`\n]*`|\]\([^)]*\)|https?://\S+", re.DOTALL | re.MULTILINE)
FIGURE = re.compile(
    r"(?<![\w.,])\d[\d,.]*\s?(?:%|x\b|[kKMGT]i?B\b|MB/s\b|[nmµu]?s\b|/s\b|times\b|percent\b|million\b|billion\b"
    r"|(?:seconds?|minutes?|hours?|milliseconds?|microseconds?|megabytes?|gigabytes?)\b"
    r"|(?:answers|requests|images|photos) (?:a|per) second\b)"
)


def documents():
    """Every document of the repository that is written by hand; reference pages are generated from the code."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [ROOT / name for name in sorted(names) if not name.startswith("docs/reference/") and (ROOT / name).exists()]


def load():
    """All results, oldest first."""
    read = []
    for path in sorted((BENCH / "results").glob("*.json")):
        try:
            result = json.loads(path.read_text())
            missing = {"schema", "experiment", "date", "commit", "machine", "command", "figures"} - result.keys()
            if missing or result["schema"] != 1 or not path.name.startswith(result["experiment"] + "."):
                raise ValueError(f"is not of schema 1: {sorted(missing) or 'schema or name'}")
            for figure in result["figures"]:
                if {"what", "of", "unit", "median", "low", "high", "runs"} - figure.keys():
                    raise ValueError(f"figure without a key: {figure}")
        except ValueError as error:
            sys.exit(f"{path.relative_to(ROOT)}: {error}")
        read.append(result | {"file": path.name})
    return sorted(read, key=lambda one: (one["date"], one["file"]))


def number(value):
    """Three significant digits, or all digits of a larger number without its fraction; thousands are separated."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cell(figure, unit=False, spread=True):
    if figure is None:
        return ""
    text = number(figure["median"])
    if spread and figure["low"] is not None and number(figure["low"]) != number(figure["high"]):
        text += f" ({number(figure['low'])} to {number(figure['high'])})"
    return text + with_unit(figure["unit"]) if unit else text


def with_unit(unit):
    return unit if unit in ("x", "") or unit.startswith("/") else f" {unit}"


def find(result, what, of):
    for figure in result["figures"]:
        if figure["what"] == what and figure["of"] == of:
            return figure
    return None


def ordered(values):
    return list(dict.fromkeys(values))


def newest(results, experiment, only=""):
    """The newest result of an experiment that has a figure matching `only`: some runs measure only a part."""
    of_it = [r for r in results if r["experiment"] == experiment and any(re.search(only, f["what"]) for f in r["figures"])]
    if not of_it:
        sys.exit(f"tables.toml: there is no result of {experiment} with {only or 'figures'}")
    return of_it[-1]


def row(cells):
    return "| " + " | ".join(cells) + " |"


def head(columns, first="left"):
    return [row(columns), "| " + " | ".join(["---"] + ["---:"] * (len(columns) - 1)) + " |"]


def kind_of(machine):
    cores = f"{machine['cores']} cores" if machine["cores"] != 1 else "1 core"
    return f"{cores} of {machine['cpu']}" + (", virtual" if machine.get("virtual") else "")


def source(result):
    settings = "".join(f"; {key.replace('_', ' ')}: {value}" for key, value in result.get("settings", {}).items())
    how = f"by hand: {result['command']}" if result.get("by_hand") else f"by `{result['command']}`"
    note = f" {result['note']}" if result.get("note") else ""
    origin = f"{result['date'][:10]}, commit {result['commit'] or 'unknown'}, {kind_of(result['machine'])}{settings}"
    return f"{origin}. Measured {how}.{note}"


def grid(table, results):
    """One row per quantity, one column per subject."""
    result = newest(results, table["experiment"], table.get("only", ""))
    figures = [one for one in result["figures"] if re.search(table.get("only", ""), one["what"])]
    rows, columns = ordered(one["what"] for one in figures), ordered(one["of"] for one in figures)
    if table.get("turned"):
        units = {one["what"]: one["unit"] for one in figures}
        yield from head([table.get("title", "")] + [f"{what}, {units[what]}" if units[what] else what for what in rows])
        for of in columns:
            yield row([of] + [cell(find(result, what, of)) for what in rows])
    else:
        yield from head([table.get("title", "")] + columns)
        for what in rows:
            found = [find(result, what, of) for of in columns]
            units = {one["unit"] for one in found if one}
            shared = len(units) == 1
            unit = f", {units.copy().pop()}" if shared and units != {""} else ""
            yield row([what + unit] + [cell(one, unit=not shared) for one in found])
    yield from ["", source(result)]


def runs(table, results):
    """One row per run of an experiment: how its figures changed from commit to commit."""
    of_it = [result for result in results if result["experiment"] == table["experiment"]]
    columns = ordered((what, one["of"]) for what in table["what"] for r in of_it for one in r["figures"] if one["what"] == what)
    units = {(one["what"], one["of"]): one["unit"] for r in of_it for one in r["figures"]}
    names = [f"{of}, {units[what, of]}" if len(table["what"]) == 1 else f"{what}, {units[what, of]}" for what, of in columns]
    yield from head(["date", "commit", *names])
    for result in reversed(of_it):
        yield row([result["date"][:10], result["commit"] or "", *(cell(find(result, *column)) for column in columns)])


def origins(results):
    """For each machine, when the results of a table were measured, and at which commits."""
    for kind in sorted({kind_of(result["machine"]) for result in results}):
        of_it = [result for result in results if kind_of(result["machine"]) == kind]
        dates = sorted({result["date"][:10] for result in of_it})
        commits = list(dict.fromkeys(result["commit"] or "unknown" for result in of_it))
        noun = "commit" if len(commits) == 1 else "commits"
        yield f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}, {noun} {', '.join(commits)}, {kind}."


def headline(table, results):
    """The figures of the first page: ours, and those of others beside them. A result keeps the command as it was
    typed; a row may give today's command instead."""
    used = []
    yield row(["what", "imagefleet", "beside it", "measured by"])
    yield row(["---", "---:", "---", "---"])
    for line in table["rows"]:
        result = newest(results, line["experiment"], f"^{re.escape(line['what'])}$")
        ours = find(result, line["what"], line["of"])
        if ours is None:
            sys.exit(f"tables.toml: {line['experiment']} has no {line['what']} of {line['of']}")
        peers = [(peer, find(result, line["what"], peer)) for peer in line.get("beside", [])]
        beside = ", ".join(f"{peer} {cell(one, True, False)}" for peer, one in peers if one)
        yield row([line["title"], cell(ours, True, False), beside or line.get("note", ""), f"`{line.get('command', result['command'])}`"])
        used.append(result)
    # Separated by empty lines.
    yield from (line for origin in origins(used) for line in ("", origin))


KINDS = {"grid": grid, "runs": runs, "headline": headline}


def write_tables(results, tables):
    """The text that each document should have; unchanged where it is up to date."""
    used = set()

    def block(match):
        name = match[2]
        if name not in tables:
            sys.exit(f"there is no table {name} in tables.toml")
        used.add(name)
        lines = KINDS[tables[name].get("kind", "grid")](tables[name], results)
        return match[1] + "\n" + "\n".join(lines) + "\n\n" + match[3]

    made = {path: BLOCK.sub(block, path.read_text()) for path in documents()}
    if tables.keys() - used:
        sys.exit(f"tables.toml: no document shows {', '.join(sorted(tables.keys() - used))}")
    return made


def typed(path, text):
    """Figures in the sentences of a document, each once."""
    blank = GENERATED.sub("", text)
    if path.name == "CHANGELOG.md":
        # Sections of released versions stay as they were written.
        blank = blank.split("\n## [Unreleased]", 1)[-1].split("\n## [")[0]
    return ordered(re.sub(r"\s", " ", match[0]) for match in FIGURE.finditer(CODE.sub(" ", blank)))


def constants():
    """What constants.txt allows: `document: figure; figure`, and why above it."""
    allowed = {}
    for line in (BENCH / "constants.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            document, figures = line.split(": ", 1)
            allowed.setdefault(document, []).extend(figure.strip() for figure in figures.split(";"))
    return allowed


def check_typed(made):
    """One complaint per figure that is typed by hand, and per constant that is no longer in its document."""
    allowed = constants()
    for path, text in made.items():
        name = str(path.relative_to(ROOT))
        found, known = typed(path, text), allowed.pop(name, [])
        for figure in found:
            if figure not in known:
                yield f"{name}: {figure!r} is typed by hand: put it into bench/results, or into bench/constants.txt if it is no measurement"
        for figure in known:
            # A release empties the section of the changelog that is checked.
            if figure not in found and path.name != "CHANGELOG.md":
                yield f"bench/constants.txt: {name} does not say {figure!r}"
    for name in allowed:
        yield f"bench/constants.txt: there is no document {name}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--figures", action="store_true")
    options = parser.parse_args()
    results = load()
    config = tomllib.loads((BENCH / "tables.toml").read_text())
    made = write_tables(results, config["tables"])
    made[CHART] = chart.draw(config["chart"], newest(results, "history"))
    made |= {ROOT / one["file"]: timeline.draw(one, newest(results, one["experiment"])) for one in config.get("timelines", [])}
    texts = {path: text for path, text in made.items() if path.suffix == ".md"}
    if options.figures:
        for path, text in texts.items():
            if found := typed(path, text):
                print(f"{path.relative_to(ROOT)}: {'; '.join(found)}")
        return 0
    differ = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    if not options.check:
        for path in differ:
            path.write_text(made[path])
            print(f"{path.relative_to(ROOT)} written")
        return 0
    complaints = [f"{path.relative_to(ROOT)} is not what the results say: python3 bench/tables.py" for path in differ]
    complaints += check_typed(texts)
    print("\n".join(complaints) or "every figure of the documents comes from bench/results", file=sys.stderr if complaints else sys.stdout)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
