// Makes a component of policy.js.
import { componentize } from "@bytecodealliance/componentize-js";
import { readFile, writeFile } from "node:fs/promises";

const { component } = await componentize(await readFile("policy.js", "utf8"), {
  witPath: "wit",
  worldName: "policy",
  // A policy has no clock, no randomness, no network and no console: it has the calls of its world.
  disableFeatures: ["random", "stdio", "clocks", "http", "fetch-event"],
});
await writeFile("build/policy.wasm", component);
