# Short names for what `.ci/run` and the scripts do; `just` lists them.

_list:
    @just --list --unsorted

# Build and start everything on port 5000; flags go to the balancer.
run *flags:
    ./scripts/run.sh {{flags}}

# Every test, end to end ones included; arguments go to pytest.
test *arguments:
    ./scripts/test.sh {{arguments}}

# Everything that must hold before a change lands.
ci:
    ./.ci/run

# Format the code.
fmt:
    cargo fmt --all

# Lints, as strict as in CI.
lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# API documentation of the workspace, in a browser.
docs:
    cargo doc --workspace --no-deps --open

# Licences, sources, advisories and unused dependencies.
deny:
    cargo deny check
    cargo machete

# Fuzz a target for some seconds: request_head, multipart, config_toml, proxy_header.
fuzz target="request_head" seconds="60":
    ./scripts/fuzz.sh {{seconds}} {{target}}

# The kernels' tests under AddressSanitizer, and the plain ones under Miri.
sanitize:
    ./scripts/sanitize.sh
