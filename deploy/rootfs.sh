#!/bin/sh
# Lays out what goes into an image: under OUT/PROGRAM each program with the libraries that it loads,
# under OUT/base the names of its user. Run by the Dockerfile and by scripts/images.sh.
#
#   deploy/rootfs.sh OUT DIR-WITH-THE-PROGRAMS
set -eu
out=$1 programs=$2

mkdir -p "$out/base/etc" "$out/base/srv"
echo 'imagefleet:x:10001:10001::/srv:/nonexistent' >"$out/base/etc/passwd"
echo 'imagefleet:x:10001:' >"$out/base/etc/group"
# Names of the machine first, then DNS, as everywhere.
echo 'hosts: files dns' >"$out/base/etc/nsswitch.conf"

for program in balancer worker client; do
  root=$out/$program
  mkdir -p "$root/usr/local/bin"
  # Function names are kept for backtraces; line tables would be six times the program.
  strip --strip-debug -o "$root/usr/local/bin/$program" "$programs/$program"
  chmod 0755 "$root/usr/local/bin/$program"
  # `NAME => PATH (ADDRESS)`, and the loader as `PATH (ADDRESS)`; the kernel's vDSO has no path.
  ldd "$programs/$program" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) .*/\1/p' \
    | while read -r library; do
      mkdir -p "$root$(dirname "$library")"
      cp -L "$library" "$root$library"
    done
done
