#!/bin/sh
# Builds the module, makes it a policy, and runs its scenarios. LIFEBOAT names the program if it is not on the PATH.
set -eu
cd "$(dirname "$0")"
cargo build --release --target wasm32-unknown-unknown
"${LIFEBOAT:-lifeboat}" policy pack "${CARGO_TARGET_DIR:-target}/wasm32-unknown-unknown/release/policy_@CRATE@.wasm" \
    --description policy.toml --output @NAME@.wasm
"${LIFEBOAT:-lifeboat}" policy test @NAME@.wasm scenarios/*.toml
