#!/usr/bin/env bash
# Makes this Debian or Ubuntu machine one node of a fleet: installs what the role needs as a systemd
# service with a user of its own, starts it and checks that it answers. Run it again to upgrade:
# restarting the balancer, or one of several workers, loses no request.
#
#   scripts/install.sh worker                     listens on port 8501
#   scripts/install.sh balancer                   port 5000, the workers of rspec/image_class.rspec
#   scripts/install.sh balancer --rspec my.rspec
#   scripts/install.sh balancer --worker 10.0.0.7:8501 --worker 10.0.0.8:8501
#   scripts/install.sh balancer --accept-joins --join-token-file join.token
#   scripts/install.sh worker --join 10.0.0.1:5000 --join-token-file join.token
#   scripts/install.sh client                     the program only; a client is not a service
#   scripts/install.sh --uninstall [ROLE]         drains, stops and removes; every role if none is named
#
#   --bin-dir DIR   install ready-made programs from DIR; by default those of a release archive are
#                   used, and in a source tree they are built
#   --no-pull       worker: do not fetch the photo model (14 MB)
#   --purge         with --uninstall: settings, models and the user as well
#   --dry-run       print what would be done and do nothing
#
# Further settings are BALANCER_… and WORKER_… variables in /etc/imagefleet/ROLE.local.env, which
# later runs leave as it is. The workers of a balancer, whether it accepts joins, and the balancers that
# a worker joins are also kept unless a later run names others; --uninstall forgets them.
set -euo pipefail
# The service's user must be able to reach the program, whatever umask the administrator has.
umask 022
export HOME="${HOME:-/root}"
caller=$PWD
cd "$(dirname "$0")/.."
# shellcheck source=scripts/toolchain.sh
source scripts/toolchain.sh

usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "scripts/${0##*/}" | sed '/^set/d'; }
usage_error() { usage >&2; printf '\nerror: %s\n' "$*" >&2; exit 2; }
value() { [ -n "${2:-}" ] || usage_error "$1 takes a value"; }
absolute() { case $1 in /*) echo "$1" ;; *) echo "$caller/$1" ;; esac; }

roles=() workers='' rspec='' join='' accept_joins='' token='' bin_dir='' pull=yes dry='' uninstall='' purge=''
while [ $# -gt 0 ]; do
  case $1 in
    balancer | worker | client) roles+=("$1") ;;
    --worker) value "$@"; workers="$workers${workers:+,}$2"; shift ;;
    --rspec) value "$@"; rspec=$(absolute "$2"); shift ;;
    --join) value "$@"; join="$join${join:+,}$2"; shift ;;
    --accept-joins) accept_joins=yes ;;
    --join-token-file) value "$@"; token=$(absolute "$2"); shift ;;
    --bin-dir) value "$@"; bin_dir=$(absolute "$2"); shift ;;
    --no-pull) pull='' ;;
    --uninstall) uninstall=yes ;;
    --purge) purge=yes ;;
    --dry-run) dry=yes ;;
    -h | --help) usage; exit 0 ;;
    *) usage_error "unknown argument $1" ;;
  esac
  shift
done
if [ -z "$uninstall" ]; then
  [ ${#roles[@]} = 1 ] || usage_error "which role: balancer, worker or client?"
  [ -z "$purge" ] || usage_error "--purge goes with --uninstall"
  [ -z "$rspec" ] || [ -r "$rspec" ] || usage_error "no RSpec at $rspec"
  [ -z "$join" ] || [ "${roles[0]}" = worker ] || usage_error "--join is for workers"
  [ -z "$accept_joins" ] || [ "${roles[0]}" = balancer ] || usage_error "--accept-joins is for balancers"
  [ -z "$join$accept_joins" ] || [ -r "$token" ] \
    || usage_error "joining needs --join-token-file FILE, the same on every machine: openssl rand -hex 32 >FILE"
fi
[ -n "$dry" ] || [ "$(id -u)" = 0 ] || die "this sets up services and needs root: sudo $0"

run() { if [ -n "$dry" ]; then printf '+%s\n' "$(printf ' %q' "$@")"; else "$@"; fi; }
# write FILE, put_file FROM TO OPTION…: write a file whole or not at all, even on a full disk.
write() {
  if [ -n "$dry" ]; then
    printf '+ write %s:\n' "$1"
    sed 's/^/    /'
  else
    cat >"$1.new" && mv -f "$1.new" "$1"
  fi
}
# FROM and TO may be the same file, which then gets the owner and the mode.
put_file() { run install "${@:3}" "$1" "$2.new" && run mv -f "$2.new" "$2"; }
has_systemd() { [ -d /run/systemd/system ]; }

opt=/opt/imagefleet state=/var/lib/imagefleet etc=/etc/imagefleet system=/etc/systemd/system
logs=/var/log/imagefleet
socket=imagefleet-balancer.socket

# begin ROLE: sets the role that everything below works on.
begin() {
  role=$1 name=imagefleet-$1 pidfile=/run/imagefleet-$1.pid
  program=$opt/bin/$role before=$opt/bin/.$role.before kept=$opt/.$role.before
  case $role in
    balancer) units=("$socket" "$name.service") start=("$program") ;;
    worker) units=("$name.service") start=("$program" serve) ;;
    client) units=() start=() ;;
  esac
  files=("${units[@]/#/$system/}" "$system/$socket.d/listen.conf" "$etc/$role.env" "$etc/slice.rspec" "$etc/join.token")
  ! is_package "$1" || die "$name is here as a Debian package: upgrade or remove it with apt"
}
is_package() {
  dpkg-query --show --showformat '${db:Status-Status}' "imagefleet-$1" 2>/dev/null | grep -qx installed
}

# 1. The program.
find_programs() {
  [ -z "$bin_dir" ] || return 0
  if [ -x "bin/$role" ]; then
    bin_dir=bin
    return
  fi
  local need built=0
  for need in cc:build-essential curl:curl; do
    command -v "${need%%:*}" >/dev/null || run install_debian "${need##*:}" ca-certificates
  done
  run ensure_rust
  run cargo build --release --locked --package "$role" || built=$?
  # So that the owner of the clone can build in it again.
  [ -n "${CARGO_TARGET_DIR:-}" ] || run chown -R --reference=. target
  [ "$built" = 0 ] || die "the program could not be built, see above"
  bin_dir=${CARGO_TARGET_DIR:-target}/release
}

# Installs by renaming, so that a service that restarts meanwhile finds a complete program.
put_program() {
  run install -D -m 755 "$bin_dir/$role" "$program.new"
  run "$program.new" --version || die "$bin_dir/$role does not run on this machine ($(uname -m))"
  [ ! -e "$program" ] || run ln -f "$program" "$before"
  run mv -f "$program.new" "$program"
}

# Keeps what is about to be replaced until the new program answers.
keep_files() {
  local file
  absent=()
  run rm -rf "$before" "$kept"
  [ -e "$program" ] || return 0
  run install -d -m 700 "$kept"
  for file in "${files[@]}"; do
    if [ ! -e "$file" ]; then
      absent+=("$file")
      continue
    fi
    run install -d "$kept${file%/*}"
    run cp --archive "$file" "$kept$file"
  done
}
# Needs no disk space, and may be interrupted and repeated.
restore_files() {
  local file
  for file in "${files[@]}"; do
    rm -f "$file.new"
    [ ! -e "$kept$file" ] || mv -f "$kept$file" "$file"
  done
  rm -f "${absent[@]}"
  if has_systemd; then systemctl daemon-reload; fi
  mv -f "$before" "$program"
}
forget_files() { rm -rf "$before" "$kept"; }

# 2. Its user, files and settings.
put_user() {
  id imagefleet >/dev/null 2>&1 \
    || run useradd --system --user-group --home-dir "$state" --shell /usr/sbin/nologin imagefleet
  run install -d -m 755 "$etc"
  # As its unit creates it: the settings are checked before the unit starts.
  [ "$role" != balancer ] || run install -d -o imagefleet -g imagefleet -m 750 "$logs"
}

# Replaces whole folders, or whole files if the folder exists: a worker may be reading them.
put_version() {
  local to=$state/models/$1 file
  if [ ! -d "$to" ]; then
    run install -d "${to%/*}"
    # cp would copy into a folder that was left over from a full disk.
    run rm -rf "${to%/*}/.${to##*/}.new"
    run cp -R "models/$1" "${to%/*}/.${to##*/}.new"
    run mv "${to%/*}/.${to##*/}.new" "$to"
    return
  fi
  for file in "models/$1"/*; do
    cmp --quiet "$file" "$to/${file##*/}" && continue
    run cp "$file" "$to/.new"
    run mv -f "$to/.new" "$to/${file##*/}"
  done
}

put_models() {
  local version
  run install -d -o imagefleet -g imagefleet -m 750 "$state" "$state/models"
  for version in models/*/[0-9]*; do put_version "${version#models/}"; done
  run chown -R imagefleet:imagefleet "$state/models"
  [ -z "$pull" ] || [ -d "$state/models/mobilenet_v2" ] \
    || run setpriv --reuid=imagefleet --regid=imagefleet --clear-groups \
      "$program" pull mobilenet_v2 --models "$state/models" \
    || skip "the photo model could not be fetched; the worker serves digits. Later:" \
      "sudo -u imagefleet $program pull mobilenet_v2 --models $state/models"
}

# earlier NAME|NAME: the lines of these variables as the last run wrote them.
earlier() { [ ! -r "$etc/$role.env" ] || sed -nE "/^($1)=/p" "$etc/$role.env"; }

worker_settings() {
  echo "WORKER_MODELS=$state/models"
  if [ -n "$join" ]; then
    printf '%s\n' "WORKER_JOIN=$join" "WORKER_JOIN_TOKEN_FILE=$etc/join.token"
  else
    earlier 'WORKER_JOIN|WORKER_JOIN_TOKEN_FILE'
  fi
}

balancer_settings() {
  if [ -n "$accept_joins" ]; then
    printf '%s\n' "BALANCER_ACCEPT_JOINS=true" "BALANCER_JOIN_TOKEN_FILE=$etc/join.token"
  else
    earlier 'BALANCER_ACCEPT_JOINS|BALANCER_JOIN_TOKEN_FILE'
  fi
  if [ -n "$workers" ]; then
    echo "BALANCER_WORKER=$workers"
  elif [ -n "$rspec" ]; then
    echo "BALANCER_RSPEC=$etc/slice.rspec"
  else
    earlier 'BALANCER_WORKER|BALANCER_RSPEC'
  fi
}

put_settings() {
  local settings
  [ -z "$token" ] || put_file "$token" "$etc/join.token" -m 640 -o root -g imagefleet
  if [ "$role" = balancer ]; then
    if [ -z "$workers$rspec$accept_joins" ]; then
      [ ! -e "$etc/balancer.env" ] || return 0
      rspec=rspec/image_class.rspec
    fi
    [ -n "$workers" ] || [ -z "$rspec" ] || put_file "$rspec" "$etc/slice.rspec" -m 644
  fi
  settings=$("${role}_settings")
  write "$etc/$role.env" <<<"$settings"
}

# Exports the settings as systemd reads them, without those of the caller.
load_settings() {
  local file line key text variable
  for variable in $(compgen -e | grep -E '^(BALANCER|WORKER)_|^PORT$'); do unset "$variable"; done
  for file in "$etc/$role.env" "$etc/$role.local.env"; do
    [ -r "$file" ] || continue
    while IFS= read -r line || [ -n "$line" ]; do
      [[ $line =~ ^[[:space:]]*([A-Z][A-Z0-9_]*)=(.*[^[:space:]])[[:space:]]*$ ]] || continue
      key=${BASH_REMATCH[1]} text=${BASH_REMATCH[2]}
      case $text in \"*\" | \'*\') text=${text:1:-1} ;; esac
      export "$key=$text"
    done <"$file"
  done
}

# Checks the settings as the service would read them, before anything is restarted: settings that the balancer refuses
# must not take down the running one. A program that lacks this check is started without it.
check_settings() (
  [ "$role" = balancer ] && "$program" check --help 2>/dev/null | grep -e --worker >/dev/null || return 0
  load_settings
  [ "$(ulimit -Hn)" = unlimited ] || [ "$(ulimit -Hn)" -ge 65536 ] || ulimit -n 65536 2>/dev/null || true
  setpriv --reuid=imagefleet --regid=imagefleet --clear-groups "$program" check
)
refuse_settings() {
  if [ -e "$before" ]; then restore_files && forget_files; fi
  die "the balancer would not start with these settings, see above; nothing was restarted"
}

# 3. The service.
stop_unsupervised() {
  local old=none
  [ ! -r "$pidfile" ] || old=$(<"$pidfile")
  case $(readlink "/proc/$old/exe") in
    "$program" | "$program (deleted)" | "$before") ;;
    *) return 0 ;;
  esac
  kill "$old" && timeout 60 tail --pid="$old" -f /dev/null
}

start_unsupervised() {
  skip "systemd does not run here: starting $role without supervision, it will not survive a reboot"
  stop_unsupervised
  (
    load_settings
    exec setsid setpriv --reuid=imagefleet --regid=imagefleet --clear-groups --no-new-privs \
      "${start[@]}" >"/var/log/$name.log" 2>&1 </dev/null
  ) &
  echo $! >"$pidfile"
}

# The address where systemd listens for the balancer, in systemd's notation: from the variable, else from the file.
public_address() (
  load_settings
  listen=${BALANCER_LISTEN:-}
  [ -n "$listen" ] || [ ! -r "${BALANCER_CONFIG:-}" ] \
    || listen=$(sed -n 's/^[[:space:]]*listen[[:space:]]*=[[:space:]]*"\{0,1\}\([^"# ]*\).*/\1/p' "$BALANCER_CONFIG")
  listen=${listen:-0.0.0.0:${PORT:-5000}}
  case $listen in
    localhost:*) echo "127.0.0.1:${listen##*:}" ;;
    :*) echo "0.0.0.0$listen" ;;
    *:*) echo "$listen" ;;
    *) echo "0.0.0.0:$listen" ;;
  esac
)

listens() { systemctl cat "$socket" 2>/dev/null | sed -n 's/^ListenStream=//p' | tail -n 1; }

# The socket of the public port outlives the balancer: connections made during a restart wait in it.
put_socket() {
  local address
  address=$(public_address)
  run rm -f "$system/$socket.d/listen.conf"
  if [ "$address" != 0.0.0.0:5000 ]; then
    run install -d "$system/$socket.d"
    printf '[Socket]\nListenStream=\nListenStream=%s\n' "$address" | write "$system/$socket.d/listen.conf"
  fi
}

start_service() {
  local unit listened=''
  if ! has_systemd; then
    is_changed=yes
    run start_unsupervised
    return
  fi
  [ "$role" != balancer ] || ! systemctl is-active --quiet "$socket" || listened=$(listens)
  for unit in "${units[@]}"; do put_file "deploy/systemd/$unit" "$system/$unit" -m 644; done
  [ "$role" != balancer ] || put_socket
  run systemctl daemon-reload
  run systemctl enable --quiet "${units[@]}"
  is_changed=yes
  restart_service "$listened"
}

# restart_service ADDRESS: ADDRESS is where the socket has listened so far.
restart_service() {
  if [ "$role" = balancer ] && [ "$1" != "$(listens)" ]; then
    # A socket cannot take a new address while its service runs, nor one that the service itself has bound.
    run systemctl stop "$name.service" "$socket"
    run systemctl start "$socket"
  fi
  # Failures of what ran before do not count against this start.
  run systemctl reset-failed "$name.service" 2>/dev/null || true
  run systemctl restart "$name.service"
}

# 4. Does it answer?
process() { if has_systemd; then systemctl show --property MainPID --value "$name"; else cat "$pidfile"; fi; }
is_well() (
  load_settings
  case $role in
    balancer) "$program" healthcheck --live --pid "$(process)" ;;
    worker) "$program" healthcheck ;;
  esac
)
# Five restarts are enough to know, or one exit where there is no systemd to restart it.
keeps_dying() {
  if has_systemd; then
    [ "$(systemctl show --property NRestarts --value "$name")" -ge 5 ]
  else
    if kill -0 "$(<"$pidfile")" 2>/dev/null; then return 1; fi
  fi
}
is_well_soon() {
  local try
  for try in $(seq 60); do
    is_well 2>/dev/null && return
    ! keeps_dying || return 1
    [ "$try" = 60 ] || sleep 1
  done
  return 1
}
wait_until_well() {
  url=$(is_well_soon) && return
  if has_systemd; then journalctl --no-pager -n 20 -u "$name" || true; else tail -n 20 "/var/log/$name.log" || true; fi
  is_well || true
  return 1
}
# Brings back the previous program with its settings, and restarts the service if it may run the new ones.
restore() {
  local listened=''
  ! has_systemd || [ "$role" != balancer ] || listened=$(listens)
  restore_files
  [ -n "$is_changed" ] || return 0
  if has_systemd; then restart_service "$listened"; else start_unsupervised; fi
}
go_back() {
  [ -e "$before" ] || die "$role does not answer; its last messages are above"
  restore
  is_well_soon >/dev/null || die "the new $role does not answer, and the one before, which was started again, neither"
  forget_files
  die "the new $role does not answer; its last messages are above. The one before was started again, as it was set"
}

# Runs however the script ends before the new program has answered: a full disk, an interrupt.
on_exit() {
  local status=$?
  trap - EXIT
  rm -f "$program.new"
  if [ -e "$before" ]; then
    restore
    say "The $role of before is there again, as it was set."
  fi
  forget_files
  exit "$status"
}

install_role() {
  local url=''
  begin "$1"
  find_programs
  # Whether the service may have been started with the new program or the new settings.
  is_changed=''
  keep_files
  [ -n "$dry" ] || trap on_exit EXIT
  put_program
  if [ "$role" = client ]; then
    run ln -sfn "$program" /usr/local/bin/imagefleet-client
    run rm -rf "$before" "$kept"
    trap - EXIT
    say "The client is ready: imagefleet-client --help"
    return
  fi
  put_user
  [ "$role" != worker ] || put_models
  put_settings
  [ -n "$dry" ] || check_settings || refuse_settings
  start_service
  if [ -n "$dry" ]; then return; fi
  wait_until_well || go_back
  forget_files
  trap - EXIT
  say "$role is up: $url"
}

# Whether another role on this machine uses the token, to join or to accept joins.
is_token_needed() {
  local other
  for other in balancer worker; do
    [ "$other" != "$role" ] || continue
    if grep -qs "JOIN_TOKEN_FILE=.*$etc/join.token" "$etc/$other.env" "$etc/$other.local.env"; then return 0; fi
  done
  return 1
}

uninstall_role() {
  local unit
  begin "$1"
  for unit in "${units[@]}"; do
    if has_systemd && [ -e "$system/$unit" ]; then run systemctl disable --quiet --now "$unit"; fi
    run rm -f "$system/$unit" "$system/$unit.d/listen.conf"
    [ ! -d "$system/$unit.d" ] || run rmdir --ignore-fail-on-non-empty "$system/$unit.d"
  done
  has_systemd || run stop_unsupervised
  run rm -rf "$program" "$before" "$kept" "$pidfile" "$etc/$role.env"
  case $role in
    balancer) run rm -f "$etc/slice.rspec" ;;
    client) run rm -f /usr/local/bin/imagefleet-client ;;
  esac
  [ -n "$purge" ] || return 0
  run rm -f "$etc/$role.local.env" "/var/log/$name.log"
  is_token_needed || run rm -f "$etc/join.token"
  case $role in
    balancer) run rm -rf "$logs" ;;
    worker) run rm -rf "$state" ;;
  esac
}

if [ -z "$uninstall" ]; then
  install_role "${roles[0]}"
  exit 0
fi
if [ ${#roles[@]} = 0 ]; then
  for role in balancer worker client; do is_package "$role" || roles+=("$role"); done
fi
for role in "${roles[@]}"; do uninstall_role "$role"; done
if has_systemd; then run systemctl daemon-reload; fi
for folder in "$opt/bin" "$opt" "$etc"; do
  [ ! -d "$folder" ] || run rmdir --ignore-fail-on-non-empty "$folder"
done
if [ -n "$purge" ] && [ ! -d "$opt" ] && id imagefleet >/dev/null 2>&1; then run userdel imagefleet; fi
[ -n "$dry" ] || say "Removed: ${roles[*]}"
