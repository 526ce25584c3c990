"""Makes docs/reference from the programs and their sources, or checks that it is up to date.

    python3 scripts/docs/reference.py            writes the pages (after `cargo build --bins`)
    python3 scripts/docs/reference.py --check    exits with 1 if a page is out of date

Flags come from `--help` of the built programs, which are looked for in target/debug (or $IMAGEFLEET_PROFILE). Routes, statuses,
metrics, log events and keys come from the sources, where each is defined in one place.
"""

import argparse
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "reference"
PROGRAMS = ("balancer", "worker", "client")
INTRO = {
    "balancer": "The load balancer. Each flag is also a variable, and a key of the TOML file that `--config` names: "
    "`--tls-cert chain.pem` is `BALANCER_TLS_CERT=chain.pem` and `tls-cert = \"chain.pem\"`. Flags win over variables, "
    "variables over the file. Lists have commas in a variable and are arrays in the file.",
    "worker": "The model server, and everything that makes and measures models. Each flag is also a variable; `--log` goes with every command.",
    "client": "The experiments. Each flag is also a variable, which means the same in every command; `--log` goes with all of them.",
}


def source(path):
    return (ROOT / path).read_text().split("#[cfg(test)]")[0]


def cell(text):
    """`text` escaped as a table cell: nothing in it ends the cell or opens an element."""
    parts = text.replace("|", "\\|").strip().split("`")
    return "`".join(part.replace("<", "&lt;") if place % 2 == 0 else part for place, part in enumerate(parts))


def table(columns, rows):
    yield "| " + " | ".join(columns) + " |"
    yield "|" + " --- |" * len(columns)
    for one in rows:
        yield "| " + " | ".join(one) + " |"


# Flags, from --help.


def help_of(program, words=()):
    """The long help, with none of our variables set and independent of the width of the terminal."""
    folder = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / os.environ.get("IMAGEFLEET_PROFILE", "debug")
    foreign = {k: v for k, v in os.environ.items() if not k.startswith(("BALANCER_", "WORKER_", "CLIENT_")) and k != "PORT"}
    command = [str(folder / program), *words, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=foreign).stdout


NAME = re.compile(r"^ {2}((?:<|\[)\w[\w:-]*(?:>|\])(?:\.\.\.)?)(?:  +(.*))?$")


class Section:
    """The flags, arguments or commands under one heading of a help text."""

    def __init__(self, title):
        self.title, self.entries = title, []


def sections(text):
    """The sections of a help text, without usage and examples."""
    found, entry = [], None
    lines = text.splitlines()
    # Text after the last section, such as examples, is not a flag.
    for line in lines:
        if re.fullmatch(r"[A-Z][\w ,'-]*:", line):
            found.append(Section(line[:-1]))
            entry = None
        elif line and not line.startswith(" "):
            entry = None
            if found:
                found.append(Section(""))
        elif found and found[-1].title and (started := start_of(line, found[-1].title)):
            entry = started
            found[-1].entries.append(entry)
        elif entry is not None and line.strip():
            entry["text"].append(line.strip())
    return [one for one in found if one.title not in ("", "Examples", "Usage")]


def start_of(line, title):
    if title == "Commands":
        match = re.match(r"^ {2}([a-z][\w-]*)(?:  +(.*))?$", line)
        return match and {"name": match[1], "value": "", "text": [match[2] or ""]}
    if match := NAME.match(line):
        return {"name": match[1], "value": "", "text": [match[2] or ""]}
    match = re.match(r"^ {2,6}(?:-(\w), )?--([\w-]+)(?:(?: |=|\[=)?((?:<|\[).*?(?:>|\])(?:\.\.\.)?))?(?:  +(.*))?$", line)
    if match:
        return {"name": f"--{match[2]}", "value": match[3] or "", "text": [match[4] or ""]}
    match = re.match(r"^ {2,6}-(\w)(?:, --([\w-]+))?(?:  +(.*))?$", line)
    return match and {"name": f"--{match[2]}" if match[2] else f"-{match[1]}", "value": "", "text": [match[3] or ""]}


def described(entry):
    """Variable, default and meaning of a flag."""
    lines = [line for line in entry["text"] if line]
    # The long form lists values one per line, and wraps their descriptions.
    joined = " ".join("\n" + line if line.startswith(("- ", "[", "Possible values:")) else line for line in lines)
    variable = re.search(r"\[env: (\w+)=[^\]]*\]", joined)
    default = re.search(r"\[(default[^\]:]*): ([^\]]*)\]", joined)
    short = re.search(r"\[possible values: ([^\]]*)\]", joined)
    meaning = re.sub(r"\s*\[(?:env|default[^\]:]*|possible values): [^\]]*\]", "", joined)
    values = [value.strip() for value in re.findall(r"\n- ([^\n]*)", meaning)]
    meaning = re.sub(r"\n- [^\n]*|\nPossible values:", "", meaning).strip()
    if short:
        meaning += f". One of {short[1]}"
    if values:
        said = (re.sub(r"^([\w-]+): +", lambda match: f"`{match[1]}` ", value) for value in values)
        meaning += f". {'; '.join(said)}".replace("..", ".")
    if default and default[1] != "default":
        meaning += f" ({default[1]})"
    return variable and variable[1], default and default[2], " ".join(meaning.split())


@functools.cache
def settings(program):
    """The flags that a program takes without a command, as cells of a table."""
    found = set()
    for part in sections(help_of(program)):
        for entry in part.entries if part.title == "Options" else ():
            if entry["name"] not in ("--help", "--version", "--log"):
                found.add(f"`{entry['name']}{' ' + entry['value'] if entry['value'] else ''}`".replace("|", "\\|"))
    return found


def command_page(program, words=()):
    """The flags of a command, then those of its subcommands."""
    text = help_of(program, words)
    name = " ".join((program, *words))
    parts = sections(text)
    about = text.split("\n\nUsage:")[0].split("\nUsage:")[0].strip()
    yield from (f"{'#' * min(len(words) + 1, 3)} {name}", "", (cell(" ".join(about.split())) or name), "")
    if not words:
        yield from (INTRO[program], "")
    usage = re.search(r"Usage: (.*?)(?:\n\n|\Z)", text, re.DOTALL)
    yield from ("```text", *(line.strip() for line in usage[1].splitlines()), "```", "")
    for part in parts:
        if part.title in ("Commands",):
            continue
        rows = []
        for entry in part.entries:
            if entry["name"] in ("--help", "--version") or words and entry["name"] == "--log":
                continue
            variable, default, meaning = described(entry)
            flag = f"`{entry['name']}{' ' + entry['value'] if entry['value'] else ''}`"
            rows.append((flag.replace("|", "\\|"), f"`{variable}`" if variable else "", cell(default or ""), cell(meaning)))
        # A command that takes every setting of its program (balancer check, balancer healthcheck) refers to them
        # instead of listing them again.
        every = settings(program) if words else set()
        if every and every <= {row[0] for row in rows}:
            rows = [row for row in rows if row[0] not in every]
            yield from (f"Takes every flag of `{program}`" + (", and:" if rows else "."), "")
        if rows:
            head = "argument" if part.title == "Arguments" else "flag"
            if part.title not in ("Options", "Arguments"):
                yield from (f"**{part.title}**", "")
            yield from (*table((head, "variable", "default", "meaning"), rows), "")
    for part in parts:
        if part.title == "Commands":
            for entry in part.entries:
                if entry["name"] != "help":
                    yield from command_page(program, (*words, entry["name"]))


def flags(program, words=()):
    """Every command of a program with the names of its flags, for checking what documents say."""
    parts = sections(help_of(program, words))
    names = {entry["name"] for part in parts if part.title != "Commands" for entry in part.entries}
    found = {(program, *words): names}
    for part in parts:
        for entry in part.entries if part.title == "Commands" else ():
            if entry["name"] != "help":
                found |= flags(program, (*words, entry["name"]))
    return found


# Metrics, from where they are registered.

SUFFIX = {"counter": "_total", "gauge": "", "histogram": ""}


def balancer_metrics():
    """Name, kind, labels and help of every family of the balancer."""
    text = re.sub(r"\s+", " ", source("balancer/src/metrics.rs"))
    found = {}
    for start, end, kind, labels in (
        ("const TOTALS", "];", "counter", ""),
        ("let gauges: [Gauge", "];", "gauge", "endpoint"),
        ("let counters: [Figure", "];", "counter", "endpoint"),
    ):
        part = text[text.index(start) :]
        for name, about in re.findall(r'\( ?"(balancer_\w+)", "([^"]+)",', part[: part.index(end)]):
            found[name] = (kind, labels, about)
    for kind, name, about in re.findall(r'\b(counter|gauge)\( ?encoder, "(balancer_\w+)", "([^"]+)",', text):
        found[name] = (kind, "", about)
    functions = re.split(r"\bfn ", text)
    for function in functions:
        described = None
        named = re.search(r'let name = "(\w+)"', function)
        for match in re.finditer(r'let help = "([^"]+)"|encode_descriptor\( ?("\w+"|name), help, None, MetricType::(\w+)', function):
            if match[1]:
                described = match[1]
                continue
            if described is None:
                continue
            name = match[2].strip('"') if match[2] != "name" else named and named[1]
            labels = sorted(set(re.findall(r'\("(\w+)", (?:[a-z]+\.(?:name|as_str)\(\)|outcome|reason|state)\)', function[match.start() :].split("encode_descriptor", 2)[1])))
            found[name] = (match[3].lower(), ", ".join(labels), described)
            described = None
    return found


def worker_metrics():
    """The same for the worker."""
    text = re.sub(r"\s+", " ", source("worker/src/metrics.rs"))
    labels = {
        name: ", ".join(re.findall(r"(?:pub )?(\w+):", body))
        for name, body in re.findall(r"struct (\w+Labels) \{ ([^}]*)\}", text)
    }
    kinds = {}
    body = re.search(r"pub struct Metrics \{ (.*?) \}", text)[1]
    for field, kind in re.findall(r"(\w+): ((?:Family|Histograms)<[^>]*>|Histogram|Counter|Gauge)", body):
        inner = re.search(r"(\w+Labels)(?:, (\w+))?", kind)
        plain = "histogram" if kind.startswith("Histogram") else (inner and inner[2] or kind).lower()
        kinds[field] = (plain, labels[inner[1]] if inner else "")
    aliases = dict(re.findall(r"let (\w+) = self\.(\w+)\.clone\(\)", text))
    found = {}
    for name, about, value in re.findall(r'register\( ?"(\w+)", "([^"]+)", (\w+)(?:\.clone\(\))?,? ?\)', text):
        kind, label = kinds[aliases.get(value, value)]
        found[name] = (kind, label, about)
    return found


def metrics_page():
    yield from ("# Metrics", "", "In OpenMetrics text: of the balancer at `/metrics` of its admin port, of a worker at `/metrics`.", "")
    for program, found in (("balancer", balancer_metrics()), ("worker", worker_metrics())):
        rows = [(f"`{name}{SUFFIX[kind]}`", kind, labels, cell(about)) for name, (kind, labels, about) in sorted(found.items())]
        yield from (f"## {program}", "", *table(("name", "kind", "labels", "meaning"), rows), "")


# Routes, from the routers.


def wire_paths():
    """The paths that both sides of a request take from a constant, with their documentation."""
    text = source("wire/src/lib.rs")
    module = text[text.index("pub mod path") :]
    found = re.findall(r'((?:\s*///[^\n]*\n)+)\s*pub const (\w+): &str = "([^"]+)";', module[: module.index("\n}")])
    plain = lambda doc: re.sub(r"\[`?(?:super::)?(\w+)`?\]", r"`\1`", " ".join(line.strip(" /") for line in doc.strip().splitlines()))
    return {name: (path, plain(doc)) for doc, name, path in found}


def worker_routes():
    paths = wire_paths()
    text = source("worker/src/api/mod.rs") + source("worker/src/api/open_inference/mod.rs")
    for target, methods in re.findall(r'\.route\(\s*("[^"]+"|(?:wire::)?path::\w+),\s*([^\n]*?)\)\s*(?:\n|$)', text):
        path = target.strip('"') if target.startswith('"') else paths[target.rsplit("::", 1)[1]][0]
        verbs = [verb.upper() for verb in re.findall(r"(get|post)\(", methods)]
        yield path, ", ".join(verbs)


def balancer_routes():
    paths = wire_paths()
    text = source("balancer/src/route.rs")
    body = text[text.index("pub fn route<") :]
    body = body[: body.index("\n}")]
    pattern = r'^\s+((?:path::\w+|"/[^"]*")(?: \| "/[^"]*")*) => (?:\{.*?)?only\([^"]*"([^"]+)"'
    for arm, allow in re.findall(pattern, body, re.MULTILINE | re.DOTALL):
        for one in arm.split(" | "):
            yield (one.strip('"') if one.startswith('"') else paths[one.rsplit("::", 1)[1]][0]), allow


def tf_serving_routes():
    """The routes of TF Serving, by the verbs that the only parser of its paths knows."""
    text = source("message/src/tf_serving.rs")
    verbs = text[text.index("pub enum Verb {") :]
    verbs = re.findall(r"/// `([:/]\w+)`", verbs[: verbs.index("\n}")])
    for verb in ("", *verbs):
        yield f"/v1/models/NAME[/versions/N|/labels/LABEL]{verb}", "POST" if verb.startswith(":") else "GET"


def admin_routes():
    text = source("balancer/src/admin/mod.rs")
    body = text[text.index("fn respond_to") :]
    body = body[: body.index("\n}")]
    paths = wire_paths()
    for arm in re.findall(r"\(&Method::GET \| &Method::HEAD, ([^)]*?)\)", body):
        for one in arm.split(" | "):
            if one.startswith('"'):
                yield one.strip('"'), "GET, HEAD"
            elif one.startswith("wire::path::"):
                yield paths[one.rsplit("::", 1)[1]][0], "GET, HEAD"
    yield "/assets/…", "GET, HEAD"
    text = source("balancer/src/admin/verbs.rs")
    for verb in re.findall(r"`(/fleet/[^`]+)`", text[text.index("`POST /fleet/policy") - 10 :].split("fn change")[0].replace("POST ", "")):
        yield verb, "POST"


# What each route is for; a route that is missing here is an error, so none is forgotten.
ABOUT = {
    "/": "the page for browsers; a few words in plain text for others",
    "/home": "the page; a POST is `/submit`",
    "/submit": "one image, as a form; the label, the whole answer as JSON, or a page, as `Accept` asks",
    "/predict": "one image, as a form or as the body; the label, or the whole answer as JSON, as `Accept` asks. A GET says how to ask",
    "/mnist": "one digit, as the body: `{\"message\": \"Image received. Size=28x28. label=7\"}`",
    "/post": "one digit, as the form field `input_photo`; answers with a page. A GET leads to `/`",
    "/v2/health/live": "200 while the process answers",
    "/v2/health/ready": "200 when requests are welcome, else 503",
    "/metrics": "[metrics](metrics.md)",
    "/targets.json": "the workers' addresses for `http_sd_configs` of Prometheus",
    "/assets/…": "the files of the pages, also by their names alone: `/app.js`, `/favicon.svg`, …",
    "/status.json": "what the page shows of the fleet: models, and the workers unless `--no-public-fleet`",
    "/status/events": "the same as server-sent events, whenever it changes",
    "/fleet/NAME/kill": "kills a spawned worker, with `--lessons`",
    "/fleet": "the endpoints and their state, as a page or as JSON",
    "/fleet.json": "the same as JSON; with `?history=1` the curves of the last five minutes too",
    "/fleet/policy?name=p2c": "chooses a [policy](../policies.md)",
    "/fleet/NAME/drain": "no new requests for an endpoint",
    "/fleet/NAME/undrain": "the opposite",
    "/fleet/NAME/weight?value=3": "weight of an endpoint, 0 to 1000; 0 keeps requests away",
    "/v2/…": "as at the worker; `load` and `unload` go to every worker",
    "/v1/models/NAME[/versions/N|/labels/LABEL]": "states of the versions",
    "/v1/models/NAME[/versions/N|/labels/LABEL]/metadata": "inputs and outputs",
    "/v1/models/NAME[/versions/N|/labels/LABEL]:predict": "outputs for `instances` or `inputs`",
    "/v1/models/NAME[/versions/N|/labels/LABEL]:classify": "labels with scores for `examples`",
    "/v1/models/NAME[/versions/N|/labels/LABEL]:regress": "values for `examples`",
    "/v2": "name, version and extensions of the server",
    "/v2/": "the same",
    "/v2/models/stats": "statistics of all models",
    "/v2/repository/index": "every version of every model, with its state",
    "/v2/repository/models/{model}/load": "reads a model's folder again",
    "/v2/repository/models/{model}/unload": "stops serving a model",
}
ENDINGS = {
    "/ready": "200 when the model answers",
    "/config": "its configuration",
    "/stats": "its statistics",
    "/infer": "an inference, with JSON or binary tensors",
    "": "inputs, outputs and versions",
}


def about(path):
    if path in ABOUT:
        return ABOUT[path]
    if path.startswith("/v2/models/{model}"):
        return next(words for ending, words in ENDINGS.items() if path.endswith(ending))
    if re.fullmatch(r"/[\w-]+\.(css|js|svg|ico)", path):
        return "a file of the page"
    sys.exit(f"scripts/docs/reference.py does not say what {path} is for")


def routes_page():
    yield from (
        "# Routes", "",
        "What is not listed is 404; a listed path with another method is 405, with `Allow`. Paths under `/v1` are TF Serving's, those",
        "under `/v2` the Open Inference Protocol's, which [open-inference.yaml](../open-inference.yaml) describes in OpenAPI.", "",
    )
    for title, found in (
        ("Public port of the balancer", [*balancer_routes(), ("/assets/…", "GET, HEAD"), *tf_serving_routes(), ("/v2/…", "as at the worker")]),
        ("Admin port of the balancer", [one for one in admin_routes() if one[0] != "/"]),
        ("Worker", [*worker_routes(), *tf_serving_routes()]),
    ):
        rows = [(f"`{path}`".replace("|", "\\|"), methods, about(path)) for path, methods in dict.fromkeys(found)]
        yield from (f"## {title}", "", *table(("path", "methods", "what"), rows), "")
    headers = re.findall(r'((?:\s*///[^\n]*\n)+)\s*pub const \w+: &str = "(x-[^"]+|server-timing)";', source("wire/src/lib.rs"))
    rows = [(f"`{name}`", cell(" ".join(line.strip(" /") for line in doc.strip().splitlines()))) for doc, name in headers]
    yield from ("## Header fields of our own", "", *table(("name", "meaning"), rows), "")


# Statuses, from the exhaustive matches of the two error types.

CODES = {
    "BAD_REQUEST": 400, "UNAUTHORIZED": 401, "FORBIDDEN": 403, "NOT_FOUND": 404, "CONFLICT": 409, "METHOD_NOT_ALLOWED": 405, "REQUEST_TIMEOUT": 408,
    "PAYLOAD_TOO_LARGE": 413, "URI_TOO_LONG": 414, "UNSUPPORTED_MEDIA_TYPE": 415, "UNPROCESSABLE_ENTITY": 422,
    "TOO_MANY_REQUESTS": 429, "REQUEST_HEADER_FIELDS_TOO_LARGE": 431, "INTERNAL_SERVER_ERROR": 500, "NOT_IMPLEMENTED": 501,
    "BAD_GATEWAY": 502, "SERVICE_UNAVAILABLE": 503, "GATEWAY_TIMEOUT": 504, "LOOP_DETECTED": 508,
}


def statuses(path, kind):
    """Status and documentation of each variant of an error type."""
    text = source(path)
    enum = text[text.index(f"pub enum {kind} {{") :]
    enum = enum[: enum.index("\n}")]
    about = {name: " ".join(line.strip(" /") for line in doc.strip().splitlines()) for doc, name in re.findall(r"((?:\s+///[^\n]*\n)+)(?:\s+#\[[^\]]*\](?:\n\s+\"[^\"]*\"\n\s+\)\])?\n)*\s+(\w+) ?[({,]", enum)}
    match = text[text.index("pub fn status(&self)") :]
    match = match[: match.index("\n    }\n")]
    for arm, code in re.findall(r"(Self::.*?) => StatusCode::(\w+)", match, re.DOTALL):
        variant = re.match(r"Self::(\w+)", arm)[1]
        part = re.findall(r"Part::(\w+)", arm)
        doc = re.sub(r"^\d+: ", "", about.get(variant, ""))
        yield CODES[code], doc[:1].upper() + doc[1:], ", ".join(part).lower()


def statuses_page():
    yield from ("# Statuses", "", "An error is JSON, `{\"error\": \"…\"}`, or a page for a client that prefers HTML. 429 and 503 have `Retry-After`.", "")
    for title, path, kind in (("balancer", "balancer/src/error.rs", "ProxyError"), ("worker", "worker/src/api/problem.rs", "Problem")):
        rows = [(str(code), cell(about + (f" ({part})" if part else ""))) for code, about, part in sorted(statuses(path, kind))]
        yield from (f"## {title}", "", *table(("status", "when"), rows), "")
    yield from ("The client's exit statuses are in [Measuring](../measuring.md#endings).", "")


# Log events, from the macros that write them.


# Crates whose events a program logs.
SPEAKERS = {"balancer": ("balancer",), "worker": ("worker", "engine")}


def events(program):
    """Level, message and fields of every event that a program logs."""
    for path in sorted(path for crate in SPEAKERS[program] for path in (ROOT / crate / "src").rglob("*.rs")):
        if path.stem.endswith("tests") or "tests" in path.parts:
            continue
        text = source(path.relative_to(ROOT))
        for match in re.finditer(r"(?:tracing::)?\b(error|warn|info)!\(", text):
            depth, at = 1, match.end()
            while depth and at < len(text):
                depth += {"(": 1, ")": -1}.get(text[at], 0) if text[at - 1] != "'" else 0
                at += 1
            inside = text[match.end() : at - 1]
            texts = re.findall(r'"((?:[^"\\]|\\.)*)"', inside)
            if not texts or texts[-1].startswith("{"):
                continue
            before = inside[: inside.rindex(f'"{texts[-1]}"')]
            fields = re.findall(r"(?:^|[,({])\s*(?:target: [^,]*,\s*)?[%?]?([a-z_]+(?:\.[a-z_]+)*)\s*(?==(?!=)|,)", before)
            yield match[1], texts[-1], ", ".join(f"`{name}`" for name in dict.fromkeys(fields) if name not in ("target",))


def logs_page():
    order = {"error": 0, "warn": 1, "info": 2}
    yield from ("# Log events", "", "The fixed words of what is logged, to be searched for, and the fields that come with them. `debug` is left out. The form of a line, and the access log:", "[The balancer in production](../balancer.md#logs).", "")
    for program in SPEAKERS:
        found = sorted(set(events(program)), key=lambda one: (order[one[0]], *one[1:]))
        yield from (f"## {program}", "", *table(("level", "message", "fields"), ((level, cell(text), fields) for level, text, fields in found)), "")


# Keys of model.toml and serving.toml, from the structs that read them.


def keys(path, struct):
    text = source(path)
    body = re.search(rf"pub struct {struct} \{{\n(.*?)\n\}}", text, re.DOTALL)[1]
    for doc, attributes, name, kind in re.findall(r"((?:\s*///[^\n]*\n)+)((?:\s*#\[[^\]]*\]\n?)*)\s*pub (\w+): ([^\n]+),", body):
        default = re.search(r'default = "(\w+)"', attributes)
        value = ""
        if default:
            function = re.search(rf"fn {default[1]}\(\)[^{{]*\{{\s*(.*?)\s*\n\}}", text, re.DOTALL)
            literal = re.search(r'"([^"]+)"|NonZeroUsize::new\(([\d_]+)\)|([\d_.]+)', function[1]) if function else None
            value = next((part for part in literal.groups() if part), "") if literal else ""
        elif "default" in attributes:
            value = "none" if kind.startswith(("Option", "BTreeMap")) else "`0s`" if kind == "Duration" else "the first below" if kind[0].isupper() and kind != "Vec" else ""
        about = " ".join(line.strip(" /") for line in doc.strip().splitlines())
        yield f"`{name}`", cell(value), cell(about)


def variants(path, name):
    """The values of an enumeration in the manifest, with their documentation."""
    text = source(path)
    match = re.search(rf"(#\[serde\([^\]]*\)\]\n)?pub enum {name} \{{\n(.*?)\n\}}", text, re.DOTALL)
    for doc, word in re.findall(r"((?:^    ///[^\n]*\n)+)(?:    #\[[^\]]*\]\n)*^    (\w+)", match[2], re.MULTILINE):
        snake = re.sub(r"(?<!^)(?=[A-Z])", "_", word).lower()
        yield f"`{snake}`", "", cell(" ".join(line.strip(" /") for line in doc.strip().splitlines()))


def model_page():
    manifest, settings = "worker/src/repository/manifest.rs", "worker/src/repository/settings.rs"
    about = "Of each version, and, optional, of each model. Unknown keys are refused by name. How to write them: [Your own model](../own-model.md)."
    yield from ("# model.toml and serving.toml", "", about, "")
    for title, found in (
        ("Keys", keys(manifest, "Manifest")),
        ("`architecture`", variants(manifest, "Architecture")),
        ("`[input]`", keys(manifest, "Input")),
        ("`[input.resize]`, key `mode`", variants(manifest, "Resize")),
        ("`filter`", variants(manifest, "Filter")),
        ("`[table]`", keys("worker/src/repository/table.rs", "Table")),
        ("`[[table.columns]]`", keys("worker/src/repository/table.rs", "Column")),
        ("Keys of `serving.toml`", keys(settings, "ModelSettings")),
        ("`version_policy`", variants(settings, "VersionPolicy")),
    ):
        yield from (f"## {title}", "", *table(("key" if "key" in title.lower() or "[" in title else "word", "default", "meaning"), found), "")


def results_page():
    yield from (
        "# Results of the client", "",
        "What the folder of a run holds. How to read the figures: [Measuring](../measuring.md).", "",
        *table(("file", "what"), (
            ("`summary.json`", "the result ([schema](../load-summary.schema.json) of `client load`); printed with `--json`"),
            ("`manifest.json`", "settings, seed, commit and machine ([schema](../manifest.schema.json))"),
            ("`samples.csv`", "one line per request, with the columns below; during a run `samples.part.csv`"),
            ("`report.html`, `*.svg`", "the report and its charts"),
            ("`latency.hgrm`, `latency.hlog`", "for the tools of HdrHistogram: percentiles; one histogram per second (`client load`)"),
        )), "",
        "## Columns of `samples.csv`", "",
        "Times in microseconds count from the start of the trial. An empty field means that there is no such value.", "",
        *table(("column", "meaning"), ((name, about) for name, _, about in keys("client/src/record/row.rs", "Row"))), "",
    )


def index_page():
    yield from (
        "# Reference", "",
        "These pages are made from the programs and their sources by `python3 scripts/docs/reference.py`, and a test compares: change the code, not the page.", "",
        "- [balancer](balancer.md), [worker](worker.md), [client](client.md): every command and flag, with its variable and default",
        "- [Routes](routes.md) and [statuses](statuses.md)",
        "- [Metrics](metrics.md)",
        "- [Log events](logs.md)",
        "- [model.toml and serving.toml](model.md)",
        "- [Results of the client](results.md): files and the columns of `samples.csv`", "",
    )


def pages():
    made = {"README": index_page(), "metrics": metrics_page(), "routes": routes_page(), "statuses": statuses_page(), "logs": logs_page(), "model": model_page(), "results": results_page()}
    made |= {program: command_page(program) for program in PROGRAMS}
    return {PAGES / f"{name}.md": "\n".join(lines).rstrip() + "\n" for name, lines in made.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    PAGES.mkdir(parents=True, exist_ok=True)
    differ = [(path, text) for path, text in pages().items() if not path.exists() or path.read_text() != text]
    for path, text in differ:
        if options.check:
            print(f"{path.relative_to(ROOT)} is not what the code says: python3 scripts/docs/reference.py", file=sys.stderr)
        else:
            path.write_text(text)
            print(f"{path.relative_to(ROOT)} written")
    return 1 if options.check and differ else 0


if __name__ == "__main__":
    sys.exit(main())
