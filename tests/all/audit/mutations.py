"""Changes an exported log in every small way, in one process, and expects docs/verify_audit.py to notice each.

mutations.py VERIFIER LOG KEY CHECKPOINT; says how many changes there were.
"""

import functools
import importlib.util
import sys

verifier, log, key, checkpoint = sys.argv[1:]
spec = importlib.util.spec_from_file_location("verify_audit", verifier)
audit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)

with open(log, "rb") as file:
    data = file.read()
with open(key, encoding="utf-8") as file:
    trust = audit.Trust(file.read())
with open(checkpoint, encoding="utf-8") as file:
    held = audit.Checkpoint("held", file.read())

# A signature takes milliseconds, and is asked for anew with every change: the same question has the same answer.
audit.ed25519_holds = functools.lru_cache(maxsize=None)(audit.ed25519_holds)


def verify(lines):
    return audit.verify(lines, [held], trust)


def changes():
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield "bit %d" % bit, split(bytes(changed))
    lines = split(data)
    for at in range(len(lines)):
        yield "without line %d" % at, lines[:at] + lines[at + 1:]
        yield "line %d twice" % at, lines[:at + 1] + lines[at:]
        yield "cut before line %d" % at, lines[:at]
        yield "cut in line %d" % at, lines[:at] + [lines[at][:-2]]
        for other in range(at):
            swapped = list(lines)
            swapped[at], swapped[other] = swapped[other], swapped[at]
            yield "lines %d and %d swapped" % (other, at), swapped


def split(text):
    """As a file gives them: only a line feed ends a line."""
    lines = text.split(b"\n")
    last = lines.pop()
    return [line + b"\n" for line in lines] + ([last] if last else [])


print(verify(split(data)))
count = 0
for what, lines in changes():
    count += 1
    try:
        verify(lines)
    except audit.Wrong:
        continue
    sys.exit("not noticed: %s" % what)
print(count)
