#!/usr/bin/env bash
# Runs all checks, from formatting to a browser that chats through the gateway. Installs missing
# programs (as root on Debian; otherwise it reports them), and stops at the first failure.
#
#   scripts/test.sh              everything
#   scripts/test.sh lint rust    some parts: lint, rust, docs, deny, cost, e2e, bench
#
# APP_GATEWAY=path   test this program end to end, instead of building one
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly CARGO_DENY_VERSION=0.20.2
readonly RUFF_VERSION=0.17.6
target="${CARGO_TARGET_DIR:-$PWD/target}"
tools="$target/tools"
export PATH="$tools/bin:$PATH:/usr/sbin:/sbin"

current=""
last_words=""
on_exit() {
  local code=$?
  [ -z "$last_words" ] || printf '\n%s\n' "$last_words" >&2
  if [ "$code" -ne 0 ] && [ -n "$current" ]; then
    printf '\nFAILED: %s (exit code %s). Nothing after it was run.\n' "$current" "$code" >&2
  fi
}
trap on_exit EXIT

# step HEADING COMMAND...: prints the heading, runs the command, and prints its duration.
step() {
  current=$1
  shift
  printf '\n=== %s\n' "$current"
  local since=$SECONDS
  "$@"
  printf -- '--- %s: %s s\n' "$current" "$((SECONDS - since))"
  current=""
}

have() { command -v "$1" >/dev/null 2>&1; }

# The Debian package of each program that the tests run.
debian_packages() {
  local pair
  for pair in gcc:gcc make:make curl:curl openssl:openssl nginx:nginx chromium:chromium systemd-analyze:systemd promtool:prometheus logrotate:logrotate haproxy:haproxy keepalived:keepalived ip:iproute2 valgrind:valgrind; do
    have "${pair%%:*}" || echo "${pair##*:}"
  done
  # nginx as a load balancer.
  [ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || echo libnginx-mod-stream
  # The HTTP clients of Java components: the JDK's and OkHttp.
  have javac || echo default-jdk-headless
  [ -e /usr/share/java/okhttp.jar ] || echo libokhttp-java
  [ -e /usr/include/stdio.h ] || echo libc6-dev
  # A client of the forward proxy.
  /usr/bin/python3 -c 'import requests' 2>/dev/null || echo python3-requests
  # Python with venv and pip, for ruff.
  python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
  [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
}

install_debian_packages() {
  local packages
  mapfile -t packages < <(debian_packages)
  if [ "${#packages[@]}" -eq 0 ]; then
    echo "nothing is missing"
    return
  fi
  if [ "$(id -u)" -ne 0 ] || ! have apt-get; then
    echo "Missing: ${packages[*]}. On Debian: apt-get install ${packages[*]}" >&2
    return 1
  fi
  echo "installing ${packages[*]}"
  # Do not start the services of installed packages (nginx, prometheus): the tests run their own
  # processes.
  local options=(-qq -o DPkg::Lock::Timeout=600)
  DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" update
  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get "${options[@]}" install -y --no-install-recommends "${packages[@]}" >/dev/null
}

require_toolchains() {
  have cargo || { echo "Missing: a Rust toolchain (cargo)" >&2; return 1; }
  have node || { echo "Missing: Node.js 20 or newer, with npm" >&2; return 1; }
  local major
  major=$(node -p 'process.versions.node.split(".")[0]')
  [ "$major" -ge 20 ] || { echo "Node.js is $major, the tests need 20 or newer" >&2; return 1; }
  printf '%s, node %s, npm %s\n' "$(cargo --version)" "$(node --version)" "$(npm --version 2>/dev/null)"
}

clippy() { cargo clippy --locked --all-targets "$@" -- -D warnings; }

# The packages of the benchmarks are separate. pingora is only formatted here, because building it
# takes minutes.
bench_formatting() {
  cargo fmt --check --manifest-path bench/load/Cargo.toml
  cargo fmt --check --manifest-path bench/pingora/Cargo.toml
}

bench_clippy() { CARGO_TARGET_DIR="$target" clippy --manifest-path bench/load/Cargo.toml; }

# Runs every workload for a moment with the installed peers. Asserts that all work, but no figure.
bench_in_short() { CARGO_TARGET_DIR="$target" bench/run --short ${APP_GATEWAY:+--gateway "$APP_GATEWAY"}; }

unit_tests() {
  if have cargo-nextest; then
    cargo nextest run --locked --no-fail-fast
  else
    cargo test --locked --no-fail-fast --lib --bins --tests
  fi
}

install_ruff() {
  local python="$tools/python"
  if [ "$("$python/bin/ruff" --version 2>/dev/null)" = "ruff $RUFF_VERSION" ]; then
    echo "up to date"
    return
  fi
  python3 -m venv "$python"
  "$python/bin/pip" install --quiet --disable-pip-version-check "ruff==$RUFF_VERSION"
}

python_lints() {
  "$tools/python/bin/ruff" format --check .
  "$tools/python/bin/ruff" check .
}

javascript_formatting() { tests/e2e/node_modules/.bin/prettier --check --log-level warn '**/*.{js,mjs}'; }

docs() { RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps; }

install_cargo_deny() {
  if have cargo-deny; then
    cargo-deny --version
    return
  fi
  # Unoptimised, because the build time matters more than its second of running.
  CARGO_TARGET_DIR="$tools/build" cargo install cargo-deny --locked --version "$CARGO_DENY_VERSION" --debug --root "$tools"
  rm -rf "$tools/build"
}

bench_dependencies() {
  cargo deny --manifest-path bench/load/Cargo.toml --config deny.toml check bans licenses sources
}

# The message about an unreachable database is repeated at the end, where it is seen.
advisories() {
  local said="$target/advisories.said" code=0
  mkdir -p "$target"
  scripts/advisories 2> >(tee "$said" >&2) || code=$?
  wait "$!" || true
  last_words=$(grep '^!!!' "$said" || true)
  return "$code"
}

install_node_modules() {
  local modules=tests/e2e/node_modules
  if [ -e "$modules/.package-lock.json" ] && [ "$modules/.package-lock.json" -nt tests/e2e/package-lock.json ]; then
    echo "up to date"
    return
  fi
  (cd tests/e2e && npm ci --no-fund --no-audit --loglevel=error)
}

build_binary() {
  # The same profile as the tests above, so almost everything is built already.
  cargo build --locked --bin app-gateway
}

end_to_end() {
  APP_GATEWAY="${APP_GATEWAY:-$target/debug/app-gateway}" E2E_ARTIFACTS="$target/e2e" \
    node --test --test-reporter=spec --test-concurrency=2 --test-timeout=400000 tests/e2e/*.test.mjs
}

parts=("$@")
[ "${#parts[@]}" -gt 0 ] || parts=(lint rust docs deny cost e2e bench)

step "Programs from Debian" install_debian_packages
step "Toolchains" require_toolchains
for part in "${parts[@]}"; do
  case "$part" in
    lint)
      step "Formatting" cargo fmt --check
      step "Clippy" clippy
      step "Clippy without the demo" clippy --no-default-features
      step "Formatting of the bench" bench_formatting
      step "Clippy of the bench" bench_clippy
      step "ruff" install_ruff
      step "Formatting and lints of the Python scripts" python_lints
      step "Node modules" install_node_modules
      step "Formatting of the JavaScript" javascript_formatting
      ;;
    rust)
      step "Unit and integration tests" unit_tests
      step "Documentation tests" cargo test --locked --doc
      ;;
    docs) step "API documentation" docs ;;
    deny)
      step "cargo-deny" install_cargo_deny
      step "Dependencies: bans, licences, sources" cargo deny check bans licenses sources
      step "Dependencies: advisories" advisories
      step "Dependencies of the bench" bench_dependencies
      ;;
    cost) step "Instructions of the request path" bench/micro/check ;;
    e2e)
      step "Node modules" install_node_modules
      if [ -z "${APP_GATEWAY:-}" ]; then step "The gateway" build_binary; fi
      step "End-to-end tests" end_to_end
      ;;
    bench) step "The bench, in short" bench_in_short ;;
    *)
      echo "no such part: $part (lint, rust, docs, deny, cost, e2e, bench)" >&2
      exit 2
      ;;
  esac
done
