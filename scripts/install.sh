#!/usr/bin/env bash
# Makes this Debian or Ubuntu machine one node of a slice: builds what the role needs, installs it as
# a systemd service with a user of its own, starts it and checks that it answers. Safe to run again.
#
#   scripts/install.sh worker                     answers on port 8501
#   scripts/install.sh balancer                   port 5000, the workers of rspec/image_class.rspec
#   scripts/install.sh balancer --rspec my.rspec
#   scripts/install.sh balancer --worker 10.0.0.7:8501 --worker 10.0.0.8:8501
#   scripts/install.sh client                     the program only; a client is no service
#
#   --bin-dir DIR   install ready-made programs from DIR instead of building them
#   --no-pull       worker: do not fetch the photo model (14 MB)
#   --dry-run       print what would be done and do nothing
#
# Further settings are BALANCER_… and WORKER_… variables in /etc/imagefleet/ROLE.local.env, which
# stays as it is when this runs again.
set -euo pipefail
export HOME="${HOME:-/root}"
caller=$PWD
cd "$(dirname "$0")/.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh

usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '/^set/d'; }
usage_error() { usage >&2; printf '\nerror: %s\n' "$*" >&2; exit 2; }
value() { [ -n "${2:-}" ] || usage_error "$1 takes a value"; }
absolute() { case $1 in /*) echo "$1" ;; *) echo "$caller/$1" ;; esac; }

role='' workers='' rspec=rspec/image_class.rspec bin_dir='' pull=yes dry=''
while [ $# -gt 0 ]; do
  case $1 in
    balancer | worker | client) role=$1 ;;
    --worker) value "$@"; workers="$workers${workers:+,}$2"; shift ;;
    --rspec) value "$@"; rspec=$(absolute "$2"); shift ;;
    --bin-dir) value "$@"; bin_dir=$(absolute "$2"); shift ;;
    --no-pull) pull='' ;;
    --dry-run) dry=yes ;;
    -h | --help) usage; exit 0 ;;
    *) usage_error "unknown argument $1" ;;
  esac
  shift
done
[ -n "$role" ] || usage_error "which role: balancer, worker or client?"
[ "$role" != balancer ] || [ -n "$workers" ] || [ -r "$rspec" ] || usage_error "no RSpec at $rspec"
[ -n "$dry" ] || [ "$(id -u)" = 0 ] || die "this sets up services and needs root: sudo $0 $role"

run() { if [ -n "$dry" ]; then printf '+%s\n' "$(printf ' %q' "$@")"; else "$@"; fi; }
write() { if [ -n "$dry" ]; then printf '+ write %s:\n' "$1"; sed 's/^/    /'; else cat >"$1"; fi; }

opt=/opt/imagefleet state=/var/lib/imagefleet etc=/etc/imagefleet service=imagefleet-$role
case $role in
  worker) port=8501 check=ready start=("$opt/bin/worker" serve) ;;
  *) port=5000 check=live start=("$opt/bin/$role") ;;
esac

# 1. The program.
if [ -z "$bin_dir" ]; then
  for need in cc:build-essential curl:curl; do
    command -v "${need%%:*}" >/dev/null || run install_debian "${need##*:}" ca-certificates
  done
  run ensure_rust
  run cargo build --release --locked --package "$role"
  bin_dir=${CARGO_TARGET_DIR:-target}/release
fi
run install -D -m 755 "$bin_dir/$role" "$opt/bin/$role"
if [ "$role" = client ]; then
  run ln -sfn "$opt/bin/client" /usr/local/bin/imagefleet-client
  run "$opt/bin/client" --version
  say "The client is ready: imagefleet-client --help"
  exit 0
fi

# 2. Its user, files and settings.
id imagefleet >/dev/null 2>&1 \
  || run useradd --system --user-group --home-dir "$state" --shell /usr/sbin/nologin imagefleet
run install -d -m 755 "$etc"
if [ "$role" = worker ]; then
  run install -d -o imagefleet -g imagefleet -m 750 "$state" "$state/models"
  run cp -R models/. "$state/models/"
  run chown -R imagefleet:imagefleet "$state/models"
  [ -z "$pull" ] || [ -d "$state/models/mobilenet_v2" ] \
    || run setpriv --reuid=imagefleet --regid=imagefleet --clear-groups \
      "$opt/bin/worker" pull mobilenet_v2 --models "$state/models" \
    || skip "the photo model could not be fetched; the worker serves digits. Later: worker pull mobilenet_v2"
  settings="WORKER_MODELS=$state/models"
elif [ -n "$workers" ]; then
  settings="BALANCER_WORKER=$workers"
else
  run install -m 644 "$rspec" "$etc/slice.rspec"
  settings="BALANCER_RSPEC=$etc/slice.rspec"
fi
write "$etc/$role.env" <<<"$settings"

# 3. The service.
start_unsupervised() {
  skip "systemd does not run here: starting $role without supervision, it will not survive a reboot"
  local file pidfile=/run/$service.pid old=none
  [ ! -r "$pidfile" ] || old=$(<"$pidfile")
  if [ "$(readlink "/proc/$old/exe")" = "$opt/bin/$role" ]; then
    kill "$old" && timeout 60 tail --pid="$old" -f /dev/null
  fi
  set -a
  for file in "$etc/$role.env" "$etc/$role.local.env"; do
    # shellcheck disable=SC1090
    [ ! -r "$file" ] || source "$file"
  done
  set +a
  setsid setpriv --reuid=imagefleet --regid=imagefleet --clear-groups --no-new-privs \
    "${start[@]}" >"/var/log/$service.log" 2>&1 </dev/null &
  echo $! >"$pidfile"
}
if [ -d /run/systemd/system ]; then
  run install -m 644 "deploy/systemd/$service.service" /etc/systemd/system/
  run systemctl daemon-reload
  run systemctl enable --quiet "$service"
  run systemctl restart "$service"
else
  run start_unsupervised
fi

# 4. Does it answer?
answers() {
  local try
  for try in $(seq 60); do
    curl --silent --fail --max-time 2 --output /dev/null "$1" && return
    [ "$try" = 60 ] || sleep 1
  done
  journalctl --no-pager -n 20 -u "$service" 2>/dev/null || tail -n 20 "/var/log/$service.log" || true
  die "$role does not answer at $1 within a minute; its last messages are above"
}
listen=$(sed -n 's/^[A-Z]*_LISTEN=//p' "$etc/$role.local.env" 2>/dev/null || true)
url=http://127.0.0.1:${listen##*:}
[ -n "$listen" ] || url=http://127.0.0.1:$port
run answers "$url/v2/health/$check"
[ -n "$dry" ] || say "$role is up: $url"
