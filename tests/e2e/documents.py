"""Commands that documents tell readers to type: blocks with their expected output, and commands in running text."""

import re
import shlex
from dataclasses import dataclass

from fleet import ROOT

BLOCK = re.compile(r"(?:<!-- test: (\w+) -->\n)?^( {0,6})```(?:sh|console)\n(.*?)^\2```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^ {0,6}```\w*\n(.*?)^ {0,6}```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(r"^(?:sudo )?(?:[A-Z_]+=\S+ )*(?:\./)?(?:target/release/)?(balancer|worker|client)(?: |$)(.*)$")


@dataclass
class Block:
    """Lines that are typed in sequence; `how` says what a test does with them."""

    how: str
    text: str

    def expected(self):
        """The outputs noted after commands: `command    # this is printed`."""
        return [match[1].strip() for match in re.finditer(r"\S.*?\s{3,}# (.*)$", self.text, re.MULTILINE)]


def blocks(path):
    """The shell blocks of a document."""
    return [Block(how or "run", text) for how, _, text in BLOCK.findall(path.read_text())]


def commands(path):
    """Every invocation of one of our programs in a document, as words; what a placeholder stands for is left out."""
    for block, span in CODE.findall(path.read_text()):
        for line in re.sub(r"\\\n\s*", " ", block or span).splitlines():
            line = re.sub(r"\s{2,}.*$|\s+#.*$", "", line.strip())
            match = PROGRAM.match(re.sub(r"^\$ ", "", line))
            if match and not re.match(r"^[|;&(]", match[2]):
                words = re.split(r"\s(?:[|;&<>]|\d?>)|…", f" {match[2]}")[0]
                try:
                    yield [match[1], *shlex.split(words)]
                except ValueError:
                    continue  # a quotation that ends on another line


def scripts(path):
    """Every script of the repository that a document names."""
    return re.findall(r"(?<![\w/])(?:\./)?((?:scripts|bench|examples|deploy|client)/[\w./-]+\.(?:sh|py|mjs))\b", path.read_text())


def documents():
    names = ["README.md", "CONTRIBUTING.md", "examples/README.md", "bench/README.md"]
    return [ROOT / name for name in names] + sorted((ROOT / "docs").glob("*.md"))
