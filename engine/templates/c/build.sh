#!/bin/sh
# Builds the module, makes it a policy, and runs its scenarios. LIFEBOAT names the program if it is not on the PATH; CC another C compiler that
# makes WebAssembly (clang with a wasi-sysroot, say).
set -eu
cd "$(dirname "$0")"
mkdir -p build
# A reactor: no `main`, only what the bindings export. 256 KiB of stack instead of 16 MiB.
${CC:-python3 -m ziglang cc} --target=wasm32-wasi -mexec-model=reactor -Oz -s -Wl,-z,stack-size=262144 -Wall -Wextra -Ibindings -o build/policy.wasm \
    src/policy.c src/json.c src/text.c bindings/policy.c bindings/policy_component_type.o
"${LIFEBOAT:-lifeboat}" policy pack build/policy.wasm --description policy.toml --output @NAME@.wasm
"${LIFEBOAT:-lifeboat}" policy test @NAME@.wasm scenarios/*.toml
