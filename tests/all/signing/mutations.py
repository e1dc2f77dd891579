"""Changes a signed manifest in every byte, and asks the outsider's verifier about each change.

    mutations.py VERIFIER MANIFEST TRUST

Every change is looked at as under the key that would fit it: the digest is left out. Prints who signed the unchanged one, and how many changes
were found; exits with 1 and names the first that was not.
"""

import importlib.util
import sys


def load(path):
    spec = importlib.util.spec_from_file_location("verify_manifest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def changes(data):
    for at in range(len(data)):
        # Every bit has its turn somewhere: an Ed25519 verification in Python takes milliseconds.
        yield "bit %d of byte %d" % (at % 8, at), data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1:]
        yield "cut before byte %d" % at, data[:at]


def main():
    verifier, manifest, trust = sys.argv[1:]
    verify = load(verifier)
    with open(trust, encoding="utf-8") as file:
        trust = verify.read_trust(file.read())
    with open(manifest, "rb") as file:
        data = file.read()
    print(verify.Text(data, verify.MANIFEST).held(trust))
    count = 0
    for what, changed in changes(data):
        try:
            verify.Text(changed, verify.MANIFEST).held(trust)
        except verify.Wrong:
            count += 1
            continue
        print("not noticed: %s" % what, file=sys.stderr)
        return 1
    print(count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
