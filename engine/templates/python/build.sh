#!/bin/sh
# Builds the component, makes it a policy, and runs its scenarios. LIFEBOAT names the program if it is not on the PATH; COMPONENTIZE_PY
# componentize-py.
set -eu
cd "$(dirname "$0")"
mkdir -p build
# Without --stub-wasi the interpreter would import files, sockets, clocks and randomness.
"${COMPONENTIZE_PY:-componentize-py}" --wit-path wit --world policy componentize --stub-wasi policy --output build/policy.wasm
"${LIFEBOAT:-lifeboat}" policy pack build/policy.wasm --description policy.toml --output @NAME@.wasm
"${LIFEBOAT:-lifeboat}" policy test @NAME@.wasm scenarios/*.toml
