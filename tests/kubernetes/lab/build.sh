# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by lab.sh, whose variables and functions it uses: builds the programs of a cluster from the Go modules that
# their projects publish, and the images for its nodes.

debian=(etcd-server containerd runc containernetworking-plugins iptables nftables conntrack docker.io prometheus)
# The last release of Kubernetes that starts on a machine with version 1 of cgroups.
kubernetes=1.34.4 metrics_server=0.8.0 coredns=1.13.1 adapter=0.12.0 locust=2.47.0

# go_module FOLDER MODULE@VERSION…: makes a module that requires these and takes the parts of Kubernetes from their
# published modules, since the folders that Kubernetes' own go.mod names instead are not published.
go_module() {
  local folder=$1 parts
  shift
  [ ! -e "$folder/go.sum" ] || return 0
  mkdir -p "$folder"
  parts=$(GOFLAGS='' go mod download -json "k8s.io/kubernetes@v$kubernetes" | sed -n 's/^\t"GoMod": "\(.*\)",/\1/p')
  {
    printf 'module imagefleet/lab\n\ngo 1.24.0\n'
    printf '\nrequire %s\n' "${@/@/ }"
    printf '\nreplace (\n'
    sed -n "s|^\t*\(k8s.io/[^ ]*\) => ./staging.*|\t\1 => \1 v0.${kubernetes#1.}|p" "$parts"
    printf ')\n'
  } >"$folder/go.mod"
  cp -R "$here/names" "$here/pause" "$folder"
}

# program NAME FOLDER PACKAGE: builds the package in that module unless the program exists.
program() {
  [ ! -x "$cache/bin/$1" ] || return 0
  say "Building $1."
  local stamp=k8s.io/component-base/version
  (cd "$2" \
    && CGO_ENABLED=0 GOFLAGS="-mod=mod -trimpath -buildvcs=false" go build -o "$cache/bin/$1" \
      -ldflags "-s -w -X $stamp.gitVersion=v$kubernetes -X $stamp.gitMajor=1 -X $stamp.gitMinor=34" "$3")
}

build() {
  command -v go >/dev/null || die "no Go toolchain"
  mkdir -p "$cache/bin"
  go_module "$cache/kubernetes" "k8s.io/kubernetes@v$kubernetes" "sigs.k8s.io/metrics-server@v$metrics_server"
  for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy; do
    program "$name" "$cache/kubernetes" "k8s.io/kubernetes/cmd/$name"
  done
  program metrics-server "$cache/kubernetes" sigs.k8s.io/metrics-server/cmd/metrics-server
  # In a module of its own, because its libraries are newer.
  go_module "$cache/names" "github.com/coredns/coredns@v$coredns"
  program coredns "$cache/names" ./names
  program pause "$cache/names" ./pause
  # In a module of its own, because its libraries are older.
  mkdir -p "$cache/adapter"
  [ -e "$cache/adapter/go.sum" ] || printf 'module imagefleet/adapter\n\ngo 1.24.0\n\nrequire %s v%s\n' \
    sigs.k8s.io/prometheus-adapter "$adapter" >"$cache/adapter/go.mod"
  program prometheus-adapter "$cache/adapter" sigs.k8s.io/prometheus-adapter/cmd/adapter
}

# tool_image NAME: makes an image of one self-contained program.
tool_image() {
  local root
  root=$(mktemp -d)
  mkdir -p "$root/tmp" "$root/usr/local/bin"
  cp "$cache/bin/$1" "$root/usr/local/bin/$1"
  python3 "$here/image.py" "localhost/$1:lab" "$root" "$cache/images/$1.tar" "/usr/local/bin/$1"
  rm -rf "$root"
}

# libraries ROOT: adds the libraries that the programs in ROOT need.
libraries() {
  # ldd fails for some of them.
  { find "$1" \( -name '*.so' -o -name '*.so.*' -o -path '*/usr/bin/*' \) -type f -exec ldd {} + 2>/dev/null || true; } \
    | sed -n 's/.* => \(\/lib[^ ]*\|\/usr\/lib[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/lib[^ ]*\) .*/\1/p' | sort -u \
    | while read -r library; do
      mkdir -p "$1$(dirname "$library")"
      cp -L "$library" "$1$library"
    done
}

# prometheus_image: Debian's Prometheus.
prometheus_image() {
  local root
  command -v prometheus >/dev/null || die "no prometheus (Debian: apt install prometheus)"
  root=$(mktemp -d)
  mkdir -p "$root"/{tmp,usr/bin,etc/prometheus,prometheus,run/secrets}
  cp -L "$(command -v prometheus)" "$root/usr/bin/prometheus"
  libraries "$root"
  python3 "$here/image.py" localhost/prometheus:lab "$root" "$cache/images/prometheus.tar" /usr/bin/prometheus
  rm -rf "$root"
}

# locust_image: Locust with Debian's Python, under the name that the manifests use.
locust_image() {
  local root python=/usr/bin/python3.11
  [ -x "$python" ] || die "no $python (Debian 12: apt install python3.11)"
  root=$(mktemp -d)
  mkdir -p "$root"/{tmp,usr/bin,usr/lib,etc}
  cp "$python" "$root$python"
  cp -R /usr/lib/python3.11 "$root/usr/lib/"
  python3.11 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
    --target "$root/usr/lib/python3.11/site-packages" "locust==$locust"
  echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
  echo 'locust:x:1000:1000::/tmp:/nonexistent' >"$root/etc/passwd"
  libraries "$root"
  cat >"$root/usr/bin/locust" <<PYTHON
#!$python
import sys
sys.path.append("/usr/lib/python3.11/site-packages")
sys.dont_write_bytecode = True
from locust.main import main
sys.exit(main())
PYTHON
  chmod 0755 "$root/usr/bin/locust"
  python3 "$here/image.py" "docker.io/locustio/locust:$locust" "$root" "$cache/images/locust.tar" /usr/bin/locust
  rm -rf "$root"
}

# service_images: runs scripts/images.sh, with a temporary Docker engine if none responds.
service_images() {
  local engine name pid=
  engine=$(mktemp -d)
  if ! docker version >/dev/null 2>&1; then
    export DOCKER_HOST="unix://$engine/socket"
    dockerd --host "$DOCKER_HOST" --data-root "$engine/data" --exec-root "$engine/exec" --pidfile "$engine/pid" \
      --bridge none --iptables=false >"$engine/log" 2>&1 &
    pid=$!
    # Stop the engine even if an image cannot be built.
    trap 'kill '"$pid"' 2>/dev/null' EXIT
    until_ok 60 "the Docker engine" docker version
  fi
  scripts/images.sh balancer worker client
  for name in balancer worker client; do
    docker save --output "$cache/images/imagefleet-$name.tar" "imagefleet-$name:latest"
  done
  if [ -n "$pid" ]; then
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 300); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    trap - EXIT
  fi
  rm -rf "$engine"
}

images() {
  mkdir -p "$cache/images"
  for name in pause coredns metrics-server prometheus-adapter; do tool_image "$name"; done
  prometheus_image
  [ -e "$cache/images/locust.tar" ] || locust_image
  service_images
  du -m "$cache"/images/*.tar >&2
}
