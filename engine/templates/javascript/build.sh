#!/bin/sh
# Builds the component, makes it a policy, and runs its scenarios. LIFEBOAT names the program if it is not on the PATH.
set -eu
cd "$(dirname "$0")"
[ -d node_modules ] || npm install --ignore-scripts --no-audit --no-fund
mkdir -p build
# Without WASI: a policy has no clock, no randomness, no network and no console, but the calls of its world.
node_modules/.bin/componentize-qjs --wit wit --world policy --js policy.js --sync --stub-wasi --opt-size --output build/policy.wasm
"${LIFEBOAT:-lifeboat}" policy pack build/policy.wasm --description policy.toml --output @NAME@.wasm
"${LIFEBOAT:-lifeboat}" policy test @NAME@.wasm scenarios/*.toml
