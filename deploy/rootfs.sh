#!/bin/sh
# Lays out the contents of the images: each program with the libraries that it loads under OUT/PROGRAM,
# the names of its user under OUT/base. Run by the Dockerfile and by scripts/images.sh.
#
#   deploy/rootfs.sh OUT DIR-WITH-THE-PROGRAMS
#   SYSROOT=/usr/aarch64-linux-gnu STRIP=aarch64-linux-gnu-strip deploy/rootfs.sh OUT DIR   for another processor
set -eu
out=$1 programs=$2

mkdir -p "$out/base/etc" "$out/base/srv"
echo 'imagefleet:x:10001:10001::/srv:/nonexistent' >"$out/base/etc/passwd"
echo 'imagefleet:x:10001:' >"$out/base/etc/group"
# Host names from local files first, then from DNS, as usual.
echo 'hosts: files dns' >"$out/base/etc/nsswitch.conf"

# needed FILE: prints the names of the libraries that it needs directly.
needed() { readelf --dynamic "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }

# libraries PROGRAM: prints where each library that it loads is, and where the program looks for it, one per line.
libraries() {
  if [ -z "${SYSROOT:-}" ]; then
    # `NAME => PATH (ADDRESS)`, and the loader as `PATH (ADDRESS)`; the kernel's vDSO has no path.
    ldd "$1" | sed -n 's/.* => \(\/[^ ]*\) .*/\1 \1/p; s/^[[:space:]]*\(\/[^ ]*\) .*/\1 \1/p'
    return
  fi
  # ldd cannot run a program for another processor. The loader is among the libraries that others need.
  missing=$(needed "$1") found=
  while [ -n "$missing" ]; do
    more=
    for name in $missing; do
      case " $found " in *" $name "*) continue ;; esac
      found="$found $name"
      echo "$SYSROOT/lib/$name /lib/$name"
      theirs=$(needed "$SYSROOT/lib/$name")
      more="$more${theirs:+ $theirs}"
    done
    missing=$more
  done
}

for program in balancer worker client; do
  root=$out/$program
  mkdir -p "$root/usr/local/bin"
  # Function names are kept for backtraces; line tables would be six times the size of the program.
  "${STRIP:-strip}" --strip-debug -o "$root/usr/local/bin/$program" "$programs/$program"
  chmod 0755 "$root/usr/local/bin/$program"
  libraries "$programs/$program" | while read -r from to; do
    mkdir -p "$root$(dirname "$to")"
    cp -L "$from" "$root$to"
  done
done
