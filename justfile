# Short names for the commands of this repository. Every recipe only calls a script or cargo, so that
# nothing here is needed to build or test. `just` (https://just.systems) lists the recipes.

_list:
    @just --list --unsorted

# Start the gateway on loopback with a stand-in for every component behind it
demo *ARGS:
    cargo run --release -- demo {{ ARGS }}

# Build the production binary, without the demo
build:
    cargo build --release --locked --no-default-features

# Run all checks, as CI does
test:
    scripts/test.sh

# Check formatting and lints
lint:
    scripts/test.sh lint

# Format the Rust, Python and JavaScript sources, after scripts/test.sh lint has installed what it needs
format:
    cargo fmt
    cargo fmt --manifest-path bench/load/Cargo.toml
    cargo fmt --manifest-path bench/pingora/Cargo.toml
    target/tools/python/bin/ruff format .
    tests/e2e/node_modules/.bin/prettier --write --log-level warn '**/*.{js,mjs}'

# Run unit, integration and documentation tests
rust:
    scripts/test.sh rust

# Build the API documentation and fail on warnings
docs:
    scripts/test.sh docs

# Build the documentation site in target/site and check its links
site:
    scripts/site

# Check licences, sources and advisories of the dependencies
deny:
    scripts/test.sh deny

# Compare instruction counts of the request path with the baseline
cost:
    scripts/test.sh cost

# Run the end-to-end tests
e2e:
    scripts/test.sh e2e

# Run every benchmark briefly, without asserting figures
bench:
    scripts/test.sh bench

# Format the Rust code in place
fmt:
    cargo fmt

# Check a configuration directory and its certificates
check DIRECTORY="config":
    cargo run --quiet -- check {{ DIRECTORY }}

# Write the generated parts of docs/reference anew
reference:
    cargo run --example reference

# Write the expected output of tests/check anew; read the difference before committing it
golden:
    UPDATE_GOLDEN=1 cargo test --test check
