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

# Format the code; only the nightly rustfmt groups imports.
fmt:
    cargo +nightly fmt --all -- --config group_imports=StdExternalCrate

# Lints, as strict as in CI.
lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# API documentation of the workspace, in a browser.
api:
    cargo doc --workspace --no-deps --open

# The book of docs/, in a browser; `cargo install mdbook` for once.
docs:
    mdbook serve --open

# Tables, chart and reference pages of the documents, made anew.
generate:
    cargo build --bins
    python3 bench/tables.py
    python3 scripts/docs/reference.py

# What documents say: figures, links, reference pages.
check-docs:
    cargo build --bins
    python3 bench/tables.py --check
    python3 scripts/docs/links.py
    python3 scripts/docs/reference.py --check

# Set the version, date the changelog, commit and tag; pushes nothing.
release version:
    python3 scripts/release.py {{version}}

# Licences, sources, advisories and unused dependencies.
deny:
    cargo deny check
    cargo machete

# Fuzz a target for some seconds; `./scripts/fuzz.sh` without arguments takes all of them.
fuzz target="request_head" seconds="60":
    ./scripts/fuzz.sh {{seconds}} {{target}}

# Break each rule of the dispatcher and see a test fail; words choose among them.
mutants *words:
    python3 scripts/mutants.py {{words}}

# The kernels' tests under AddressSanitizer, and the plain ones under Miri.
sanitize:
    ./scripts/sanitize.sh
