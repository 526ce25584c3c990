#!/usr/bin/env bash
# Writes a software bill of materials (CycloneDX) for each program: every crate that it is made of, with
# version, licence and checksum, as in Cargo.lock.
#
#   ./scripts/sbom.sh dist        dist/imagefleet-balancer.cdx.json, -worker, -client
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh

out=${1:?where to}
mkdir -p "$out"
ensure_rust
ensure_cargo_tool cyclonedx 0.5.7
for program in balancer worker client; do
  cargo cyclonedx --quiet --format json --manifest-path "$program/Cargo.toml" --override-filename sbom
  mv "$program/sbom.json" "$out/imagefleet-$program.cdx.json"
done
find . -name sbom.json -not -path './target/*' -delete
