# shellcheck shell=bash
# Sourced by the other scripts: finds or installs what a fresh machine lacks, and says what it does.
# Nothing here prompts, and a second call does nothing.

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
skip() { printf '\033[1;33mSKIPPED: %s\033[0m\n' "$*" >&2; }
die() { printf '\033[1;31merror: %s\033[0m\n' "$*" >&2; exit 1; }

# until_served URL PID: waits until the address answers 200, for at most two minutes and while the process lives.
until_served() {
  local deadline=$((SECONDS + 120))
  until [[ $(curl -s --max-time 5 -o /dev/null -w '%{http_code}' "$1") == 200 ]]; do
    kill -0 "$2" 2>/dev/null || die "the program that should answer $1 has ended"
    [ "$SECONDS" -lt "$deadline" ] || die "$1 is not answered within two minutes"
    sleep 0.1
  done
}

# The oldest compiler that the workspace accepts, as stated in Cargo.toml.
oldest_rust() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }

rust_is_recent() {
  command -v cargo >/dev/null || return 1
  local have
  have=$(cargo --version | cut -d' ' -f2)
  [ "$(printf '%s\n%s\n' "$(oldest_rust)" "$have" | sort -V | head -n 1)" = "$(oldest_rust)" ]
}

ensure_rust() {
  command -v cc >/dev/null || die "no C compiler (Debian and Ubuntu: apt install build-essential)"
  PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
  rust_is_recent && return
  local fetch=(curl --proto '=https' --tlsv1.2 -sSf)
  if ! command -v curl >/dev/null; then
    command -v wget >/dev/null \
      || die "curl or wget is needed to install Rust (Debian and Ubuntu: apt install curl ca-certificates)"
    fetch=(wget --https-only --secure-protocol=TLSv1_2 --quiet --output-document=-)
  fi
  say "Installing the Rust toolchain with rustup into ~/.cargo and ~/.rustup (no root needed)."
  "${fetch[@]}" https://sh.rustup.rs | sh -s -- -y --profile minimal --component clippy,rustfmt --no-modify-path
  rust_is_recent || die "Rust $(oldest_rust) or newer is needed; this one is $(cargo --version)"
}

# release_programs: prints the folder of balancer, worker and client (BIN, or target/release); builds them if one
# is missing.
release_programs() {
  local bin=${BIN:-target/release} program
  for program in balancer worker client; do
    [ -x "$bin/$program" ] && continue
    [ -z "${BIN:-}" ] || die "no $program in $bin"
    ensure_rust >&2
    cargo build --release --locked --quiet --bin balancer --bin worker --bin client >&2 || die "the build failed"
    break
  done
  echo "$bin"
}

# models_of_photos BIN: prints the folder of models (MODELS, or models), which must contain the one for photos.
models_of_photos() {
  local models=${MODELS:-models}
  [ -d "$models/mobilenet_v2" ] || die "no MobileNetV2 in $models: $1/worker pull mobilenet_v2"
  echo "$models"
}

# install_debian PACKAGE…: fails if we are not root or not on Debian or Ubuntu.
install_debian() {
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    return 1
  fi
  say "Installing $* with apt-get."
  apt-get update -qq >/dev/null \
    && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

# ensure_debian PROGRAM PACKAGE…: installs the packages when PROGRAM is missing and we may.
ensure_debian() {
  command -v "$1" >/dev/null && return
  install_debian "${@:2}" && command -v "$1" >/dev/null
}

# ensure_cargo_tool NAME VERSION: a cargo subcommand, built from source when it is missing. A tool that runs
# for a second is not worth minutes of optimising.
ensure_cargo_tool() {
  command -v "cargo-$1" >/dev/null && return
  say "Installing cargo-$1 $2 (a few minutes)."
  CARGO_PROFILE_DEV_DEBUG=none cargo install --locked --quiet --debug "cargo-$1@$2"
}

# ensure_go_tool NAME PACKAGE@VERSION: a Go program, built from source when it is missing.
ensure_go_tool() {
  command -v go >/dev/null && PATH="$PATH:$(go env GOPATH)/bin"
  command -v "$1" >/dev/null && return
  command -v go >/dev/null || return 1
  say "Installing $1 (a minute)."
  go install "$2" >/dev/null 2>&1 && command -v "$1" >/dev/null
}
