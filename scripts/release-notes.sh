#!/usr/bin/env bash
# Prints the section of CHANGELOG.md on a version; fails if that is not the version of Cargo.toml, or if
# the section is missing or empty.
#
#   ./scripts/release-notes.sh 1.2.3
#
# In a GitHub workflow, links into the repository become links to the version's files, since release notes
# are shown elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh

version=${1:?which version}
written=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
[ "$version" = "$written" ] || die "Cargo.toml has version $written, not $version"
notes=$(awk -v title="## [$version]" '/^## / { wanted = index($0, title) == 1; next } wanted' CHANGELOG.md)
[ -n "${notes//[[:space:]]/}" ] || die "CHANGELOG.md has no section [$version]"
if [ -n "${GITHUB_REPOSITORY:-}" ]; then
  there=${GITHUB_SERVER_URL:-https://github.com}/$GITHUB_REPOSITORY/blob/v$version
  notes=$(sed -E "s#\]\((docs/|[A-Z]+\.md)#](${there}/\1#g" <<<"$notes")
fi
printf '%s\n' "$notes"
