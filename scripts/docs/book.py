"""An mdBook preprocessor: links out of docs/ lead to the repository, whose address is $REPOSITORY.

mdBook copies only docs/ into the book, while on the repository's own pages `../bench/README.md` is right.
Without an address such links become plain text, because a dead link is worse than none.
"""

import json
import os
import posixpath
import re
import sys

LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")


def rewrite(text, page, repository):
    """`text` of the page at `page` in docs/, with links that stay in the book left as they are."""

    def link(match):
        target, _, anchor = match[2].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
        if path.startswith("docs/"):
            return match[0]
        anchor = f"#{anchor}" if anchor else ""
        return f"[{match[1]}]({repository}/blob/main/{path}{anchor})" if repository else match[1]

    return LINK.sub(link, text)


def walk(items, repository):
    for item in items:
        chapter = item.get("Chapter") if isinstance(item, dict) else None
        if chapter:
            if chapter.get("path"):
                chapter["content"] = rewrite(chapter["content"], chapter["path"], repository)
            walk(chapter["sub_items"], repository)


def main():
    if sys.argv[1:2] == ["supports"]:
        return
    _, book = json.load(sys.stdin)
    walk(book.get("items", book.get("sections", [])), os.environ.get("REPOSITORY", "").rstrip("/"))
    json.dump(book, sys.stdout)


if __name__ == "__main__":
    main()
