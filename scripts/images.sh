#!/usr/bin/env bash
# Builds the container images where no base image can be pulled: the programs are built here, each
# is copied with its libraries into an empty image, and the rest follows deploy/Dockerfile.
#
#   ./scripts/images.sh                       imagefleet-balancer, -worker, -client and imagefleet
#   ./scripts/images.sh balancer worker       only these
#   TAG=v2 ./scripts/images.sh                a tag other than latest
#   PROFILE=dev ./scripts/images.sh           quick to build, slow to run
#   PROGRAMS=target/release ./scripts/images.sh   with programs that are already built
#   ARCH=arm64 ./scripts/images.sh            cross-built for that processor, and tagged with its name
#   PREFIX=registry.example/imagefleet ./scripts/images.sh   names for a registry
#   RECORD=1 ./scripts/images.sh              records their sizes in bench/results
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh

case ${1:-} in -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "scripts/${0##*/}"; exit 0 ;; esac
arch=${ARCH:-} tag=${TAG:-${ARCH:-latest}} prefix=${PREFIX:-imagefleet}
[ $# -gt 0 ] || set -- balancer worker client imagefleet
docker version >/dev/null 2>&1 || die "no Docker engine answers (docker version says why)"

# Empty if the programs are for this machine.
triple=''
case $arch in
  '') ;;
  arm64) triple=aarch64-unknown-linux-gnu gnu=aarch64-linux-gnu ;;
  *) die "images for $arch cannot be cross-built; ARCH is arm64" ;;
esac
if [ -n "$triple" ]; then
  ensure_debian "$gnu-gcc" "gcc-$gnu" || die "$gnu-gcc is needed (Debian and Ubuntu: apt install gcc-$gnu)"
  export SYSROOT=/usr/$gnu STRIP=$gnu-strip
fi

programs=${PROGRAMS:-}
if [ -z "$programs" ]; then
  ensure_rust
  profile=${PROFILE:-release}
  if [ -n "$triple" ]; then
    rustup target add "$triple"
    linker=CARGO_TARGET_${triple//-/_}_LINKER
    export "${linker^^}=$gnu-gcc"
  fi
  say "Building the programs (the first time takes some minutes)."
  cargo build --profile "$profile" --locked --bins ${triple:+--target "$triple"}
  [ "$profile" = dev ] && profile=debug
  programs=${CARGO_TARGET_DIR:-target}/${triple:+$triple/}$profile
fi

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
deploy/rootfs.sh "$context/out" "$programs"
cp -R models "$context/models"

# dockerfile TARGET: prints the stages that the target is made of.
dockerfile() {
  printf 'FROM scratch AS build\nCOPY out /out\n'
  awk -v target="$1" '/^FROM/ { wanted = $4 == "base" || $4 == target } wanted' deploy/Dockerfile
}

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
for target in "$@"; do
  name=$prefix-$target
  [ "$target" != imagefleet ] || name=$prefix
  dockerfile "$target" >"$context/Dockerfile"
  # The engine's own builder needs neither a plugin nor a front end from a registry.
  DOCKER_BUILDKIT=0 docker build --quiet --tag "$name:$tag" \
    --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
    --build-arg "CREATED=$(date --utc +%Y-%m-%dT%H:%M:%SZ)" "$context" >"$context/log" 2>&1 \
    || { cat "$context/log" >&2; die "docker build of $name"; }
  [ -z "$arch" ] || docker save "$name:$tag" | python3 scripts/image_for.py "$arch" | docker load --quiet >/dev/null
  size=$(($(docker image inspect --format '{{.Size}}' "$name:$tag") / 100000))
  say "$name:$tag  $((size / 10)) MB"
  printf '{"what": "size", "of": "%s", "unit": "MB", "values": [%s]}\n' "$name" "$((size / 10)).$((size % 10))" >>"$context/sizes"
done
[ -z "${RECORD:-}" ] || python3 bench/record.py "images${arch:+-$arch}" --command "${arch:+ARCH=$arch }./scripts/images.sh" <"$context/sizes"
