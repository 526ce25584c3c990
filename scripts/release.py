"""Makes a release: sets the version everywhere, dates the changelog, commits and tags. Nothing is pushed.

    python3 scripts/release.py 0.2.0             on a clean tree
    python3 scripts/release.py 0.2.0 --dry-run   says what would be done

`./.ci/run` should have passed on the commit before; that is for maintainers.
"""

import argparse
import datetime
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scripts" / "docs"))

import stable  # noqa: E402

VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9a-z.]+)?")


def run(*command, root=ROOT):
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def key(version):
    """The sort key of a version; a pre-release comes before its release."""
    match = VERSION.fullmatch(version)
    if not match:
        raise SystemExit(f"{version!r} is not a version such as 0.2.0 or 0.2.0-rc.1")
    return (*map(int, match.group(1, 2, 3)), match[4] is None, match[4] or "")


def bumped(manifest, version):
    """Cargo.toml with the version of the workspace."""
    section = re.search(r"(\[workspace\.package\]\n(?:(?!\[).*\n)*?version = \")([^\"]+)(\")", manifest)
    if not section:
        raise SystemExit("Cargo.toml has no version under [workspace.package]")
    if key(version) <= key(section[2]):
        raise SystemExit(f"{version} does not come after {section[2]}")
    return manifest[: section.start()] + section[1] + version + section[3] + manifest[section.end() :]


def relocked(lock, old, version):
    """A lock file in which the packages of this repository, which have no source, have the new version."""
    blocks = lock.split("[[package]]\n")
    own = [block if "\nsource = " in block else block.replace(f'version = "{old}"\n', f'version = "{version}"\n', 1) for block in blocks]
    return "[[package]]\n".join(own)


def labelled(dockerfile, old, version):
    """The Dockerfile with the version that images get without a build argument."""
    line = f"\nARG VERSION={old}\n"
    if line not in dockerfile:
        raise SystemExit(f"deploy/Dockerfile does not say ARG VERSION={old}")
    return dockerfile.replace(line, f"\nARG VERSION={version}\n")


def dated(changelog, version, day):
    """The changelog with its unreleased section renamed to the version, and an empty one before it."""
    match = re.search(r"^## \[Unreleased\]\n(.*?)(?=^## \[|\Z)", changelog, re.MULTILINE | re.DOTALL)
    if not match:
        raise SystemExit("CHANGELOG.md has no section [Unreleased]")
    if f"## [{version}]" in changelog:
        raise SystemExit(f"CHANGELOG.md has a section [{version}] already")
    if not re.search(r"^- ", match[1], re.MULTILINE):
        raise SystemExit("CHANGELOG.md has nothing under [Unreleased]")
    return f"{changelog[: match.start()]}## [Unreleased]\n\n## [{version}] - {day}\n{changelog[match.start(1) :]}"


def release(root, version, dry_run):
    if run("git", "status", "--porcelain", "--untracked-files=no", root=root).strip():
        raise SystemExit("there are changes that are not committed")
    if run("git", "tag", "--list", f"v{version}", root=root).strip():
        raise SystemExit(f"the tag v{version} is there already")
    tag = stable.last_tag(root)
    if tag and (gone := list(stable.gone(root, tag))):
        raise SystemExit(f"CHANGELOG.md does not say that this is gone since {tag}: {'; '.join(gone)}")
    day = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    manifest = (root / "Cargo.toml").read_text()
    old = re.search(r'\[workspace\.package\]\nversion = "([^"]+)"', manifest)[1]
    changed = {
        "Cargo.toml": bumped(manifest, version),
        # Builds with `--locked` would refuse any other version.
        **{name: relocked((root / name).read_text(), old, version) for name in ("Cargo.lock", "fuzz/Cargo.lock")},
        "deploy/Dockerfile": labelled((root / "deploy/Dockerfile").read_text(), old, version),
        "CHANGELOG.md": dated((root / "CHANGELOG.md").read_text(), version, day),
    }
    if dry_run:
        print(f"would set {version} in {', '.join(changed)}, commit, and tag v{version}")
        return
    for name, text in changed.items():
        (root / name).write_text(text)
    run("git", "commit", "--quiet", "--message", f"Version {version}", "--", *changed, root=root)
    run("git", "tag", "--annotate", "--message", f"imagefleet {version}", f"v{version}", root=root)
    print(f"v{version} is tagged; publish it with: git push origin HEAD v{version}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    release(ROOT, options.version, options.dry_run)


if __name__ == "__main__":
    sys.exit(main())
