#!/usr/bin/env bash
# Makes the files of a release: an archive that scripts/install.sh installs without a compiler, and
# Debian packages. All are for the machine that the programs were built for.
#
#   ./scripts/package.sh                     builds the programs, writes to dist/
#   OUT=DIR ./scripts/package.sh             to another folder
#   PROGRAMS=DIR ./scripts/package.sh        with programs already built (for a release, by release-build.sh), also
#                                            for another machine
#   PROFILE=dev ./scripts/package.sh         quick to build, slow to run
#   VERSION=1.2.3 ./scripts/package.sh       with a version other than that of Cargo.toml
#
# The same programs make the same files, byte for byte (SOURCE_DATE_EPOCH is read).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh

case ${1:-} in -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "scripts/${0##*/}"; exit 0 ;; esac
out=${OUT:-dist} programs=${PROGRAMS:-}
roles=(balancer worker client)
version=${VERSION:-$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)}
# So that 1.2.3-rc1 comes before 1.2.3.
debian_version=${version//-/\~}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

if [ -z "$programs" ]; then
  ensure_rust
  profile=${PROFILE:-release}
  say "Building the programs (the first time takes some minutes)."
  cargo build --profile "$profile" --locked --bins
  [ "$profile" = dev ] && profile=debug
  programs=${CARGO_TARGET_DIR:-target}/$profile
fi

# The machine that the program's header names, whatever machine this is.
machine() { od --address-radix=n --format=u2 --skip-bytes=18 --read-bytes=2 "$1" | tr -d ' '; }
number=$(machine "$programs/balancer")
for role in "${roles[@]}"; do
  [ "$(machine "$programs/$role")" = "$number" ] || die "the programs in $programs are for different machines"
done
case $number in
  62) cpu=x86_64 debian=amd64 ;;
  183) cpu=aarch64 debian=arm64 ;;
  *) die "the programs in $programs are for a machine without packages (ELF number $number)" ;;
esac

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$out" "$stage/bin"
for role in "${roles[@]}"; do
  # Function names are kept for backtraces. A strip for another architecture may fail on these files.
  "${STRIP:-strip}" --strip-debug -o "$stage/bin/$role" "$programs/$role" 2>/dev/null \
    || cp "$programs/$role" "$stage/bin/$role"
  chmod 755 "$stage/bin/$role"
done
# Models that downloads or training may have added to models/ are not shipped.
shipped=(models/iris_model models/mnist)

archive() {
  local name=imagefleet-$version-$cpu-linux
  local tree=$stage/$name
  mkdir -p "$tree/scripts" "$tree/deploy" "$tree/rspec" "$tree/models"
  cp -R "$stage/bin" "$tree/bin"
  cp -R "${shipped[@]}" "$tree/models"
  cp scripts/install.sh scripts/run.sh scripts/toolchain.sh "$tree/scripts"
  cp -R deploy/systemd deploy/prometheus deploy/grafana "$tree/deploy"
  cp rspec/image_class.rspec "$tree/rspec"
  cp -R docs README.md CHANGELOG.md SECURITY.md LICENSE-APACHE LICENSE-MIT "$tree"
  chmod -R u=rwX,go=rX "$tree"
  tar --create --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
    --directory "$stage" "$name" | gzip --no-name >"$out/$name.tar.gz"
  say "$out/$name.tar.gz"
}

declare -A summary=(
  [balancer]="load balancer and upload page of an image recognition service"
  [worker]="model server of an image recognition service"
  [client]="measures image recognition services"
)

control() {
  local libc
  libc=$(readelf --version-info "$stage/bin/$1" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)
  cat <<END
Package: imagefleet-$1
Version: $debian_version
Architecture: $debian
Maintainer: imagefleet developers <imagefleet@example.org>
Section: net
Priority: optional
Installed-Size: $(du --summarize --block-size=1024 --exclude=DEBIAN "$2" | cut -f 1)
Depends: libc6 (>= ${libc#GLIBC_}), libgcc-s1, passwd, init-system-helpers
Description: ${summary[$1]}
 imagefleet recognises images as a distributed web service: a load balancer, workers that compute,
 and a client that measures. Each is a package of its own.
END
}

debian_package() {
  local role=$1 name=imagefleet-$1
  local root=$stage/$name
  local doc=$root/usr/share/doc/$name
  install -D -m 755 "$stage/bin/$role" "$root/opt/imagefleet/bin/$role"
  mkdir -p "$root/usr/bin" "$doc" "$root/DEBIAN"
  ln -s "/opt/imagefleet/bin/$role" "$root/usr/bin/$name"
  cat LICENSE-MIT <(printf '\nOr, at your choice, the Apache License 2.0: /usr/share/common-licenses/Apache-2.0\n') >"$doc/copyright"
  gzip --no-name --best <CHANGELOG.md >"$doc/changelog.gz"
  # Programs for another architecture cannot run here.
  if "$stage/bin/$role" man >"$stage/page" 2>/dev/null && [ -s "$stage/page" ]; then
    mkdir -p "$root/usr/share/man/man1"
    gzip --no-name --best <"$stage/page" >"$root/usr/share/man/man1/$name.1.gz"
  fi
  case $role in
    balancer)
      install -D -m 644 -t "$root/lib/systemd/system" deploy/systemd/imagefleet-balancer.*
      # Files that the guide copies and the runbook posts.
      cp -R deploy/prometheus deploy/grafana docs/seven.png "$doc"
      ;;
    worker)
      install -D -m 644 -t "$root/lib/systemd/system" deploy/systemd/imagefleet-worker.service
      mkdir -p "$root/var/lib/imagefleet/models"
      cp -R "${shipped[@]}" "$root/var/lib/imagefleet/models"
      ;;
  esac
  chmod -R u=rwX,go=rX "$root"
  [ "$role" = client ] || install -m 755 -t "$root/DEBIAN" deploy/debian/*
  control "$role" "$root" >"$root/DEBIAN/control"
  local file="$out/${name}_${debian_version}_$debian.deb"
  dpkg-deb --root-owner-group -Zxz --build "$root" "$file" >/dev/null
  say "$file"
}

archive
if command -v dpkg-deb >/dev/null; then
  for role in "${roles[@]}"; do debian_package "$role"; done
else
  skip "Debian packages: no dpkg-deb here"
fi
