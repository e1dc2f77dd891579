#!/usr/bin/env python3
"""Verifies a backup of Lifeboat in a directory store, without Lifeboat: written from FORMATS.md alone, standard library only (Python 3.9 or
later).

    verify_manifest.py STORE SERVICE BACKUP [--key FILE]

STORE: the store's directory. --key: the keys that you trust, a line `NAME+HASH+BASE64 KIND...` each, as `lifeboat keys show` says it. With
it, the manifest must be signed by one of them, and verifications and checks beside it count if they are. Without it, nothing is held against any key.
Checks the manifest, its signature, and size and SHA-256 of every object as it is stored. Says what holds and exits with 0; says what is
wrong and exits with 5; exits with 2 where a file can't be read or the arguments make no sense. What is inside the objects it does not
unpack.
"""

import argparse
import base64
import binascii
import datetime
import hashlib
import json
import os
import re
import stat
import sys

MANIFEST = "lifeboat/manifest/1"
VERIFIED = "lifeboat/verified/1"
CHECKED = "lifeboat/checked/1"
KINDS = (MANIFEST, VERIFIED, CHECKED)
NOTE_BYTES_MAX = 64 << 20
KEY_FILE_BYTES_MAX = 64 << 10
DEPTH_MAX = 100
CHUNK_BYTES = 1 << 20


class Wrong(Exception):
    """What is wrong, in words."""


def shown(text):
    return "".join(c if c.isprintable() else "\\u{%x}" % ord(c) for c in text[:120])


# ── Ed25519 (RFC 8032), verification only ──

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)


def recover_x(y, sign):
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    return P - x if x & 1 != sign else x


def decode_point(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if y >= P:
        return None
    x = recover_x(y, sign)
    return None if x is None else (x, y, 1, x * y % P)


def add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def multiply(scalar, point):
    result = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


BASE = decode_point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def ed25519_holds(key, message, signature):
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    point = decode_point(key)
    if point is None or s >= L:
        return False
    h = int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % L
    x, y, z, _ = add(multiply(s, BASE), multiply(L - h, point))
    inverse = pow(z, P - 2, P)
    x, y = x * inverse % P, y * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little") == r


# ── Keys and signed texts ──

def strict_base64(text):
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Wrong("its base64 is not the one text of its bytes")
    if base64.b64encode(data).decode() != text:
        raise Wrong("its base64 is not the one text of its bytes")
    return data


def check_key_name(name):
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", name):
        raise Wrong("`%s` is no name of a key" % shown(name))


class Key:
    """A line of trust: NAME+HASH+BASE64, and the kinds of texts that the key may sign."""

    def __init__(self, line):
        words = line.split(" ")
        parts, self.kinds = words[0].split("+", 2), words[1:]
        if len(parts) != 3:
            raise Wrong("a key is NAME+HASH+BASE64")
        self.name = parts[0]
        check_key_name(self.name)
        data = strict_base64(parts[2])
        if len(data) != 33 or data[0] != 1:
            raise Wrong("its key is no Ed25519 key")
        self.key = data[1:]
        self.hash = hashlib.sha256(self.name.encode() + b"\n" + data).digest()[:4]
        if self.hash.hex() != parts[1]:
            raise Wrong("its hash is not that of its name and key")
        if not self.kinds:
            raise Wrong("it does not say which kinds of texts the key may sign")
        for kind in self.kinds:
            if kind not in KINDS:
                raise Wrong("`%s` is no kind of text; there is: %s" % (shown(kind), ", ".join(KINDS)))


def read_trust(text):
    keys = []
    lines = text[:-1] if text.endswith("\n") else text
    for at, line in enumerate(lines.split("\n"), 1):
        try:
            keys.append(Key(line))
        except Wrong as wrong:
            raise Wrong("line %d: %s" % (at, wrong))
    return keys


class Text:
    """A manifest or a record as it is stored: JSON alone, or a kind, JSON, an empty line and one signature."""

    def __init__(self, data, kind):
        self.kind, self.name = kind, None
        if len(data) > NOTE_BYTES_MAX:
            raise Wrong("it is too long")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            raise Wrong("it is not UTF-8")
        if not data.startswith(b"lifeboat/"):
            self.body = read_json(text)
            return
        text, empty, lines = text.partition("\n\n")
        if not empty:
            raise Wrong("it has no empty line before its signatures")
        if not lines.endswith("\n"):
            raise Wrong("its last line does not end")
        signatures = lines[:-1].split("\n")
        for line in signatures:
            if not line.startswith("\u2014 "):
                raise Wrong("a line after the empty one is no signature")
            name, space, signed = line[2:].partition(" ")
            if not space:
                raise Wrong("a signature is NAME BASE64")
            check_key_name(name)
            signed = strict_base64(signed)
            if len(signed) != 68:
                raise Wrong("a signature is not 64 bytes long")
        if len(signatures) != 1:
            raise Wrong("it has %d signatures, 1 expected" % len(signatures))
        self.name, self.key_hash, self.signature = name, signed[:4], signed[4:]
        self.signed = (text + "\n").encode()
        first, _, body = text.partition("\n")
        if first != kind:
            raise Wrong("it is no %s, it begins with `%s`" % (kind, shown(first)))
        if not body or "\n" in body:
            raise Wrong("it is not one line of JSON")
        self.body = read_json(body)

    def held(self, trust):
        """Who signed it, in words; an error unless a trusted key did."""
        if trust is None:
            return "not signed" if self.name is None else "signed by %s, held against no key" % self.name
        if self.name is None:
            raise Wrong("it is not signed")
        keys = [key for key in trust if (key.name, key.hash) == (self.name, self.key_hash)]
        if not keys:
            if any(key.name == self.name for key in trust):
                raise Wrong("it is signed by another key than the trusted one of the name %s" % self.name)
            raise Wrong("it is signed by %s, which is not trusted" % self.name)
        keys = [key for key in keys if ed25519_holds(key.key, self.signed, self.signature)]
        if not keys:
            raise Wrong("its signature by %s does not hold" % self.name)
        if not any(self.kind in key.kinds for key in trust if key.key == keys[0].key and key.name == self.name):
            raise Wrong("%s may not sign %s" % (self.name, self.kind))
        return "signed by %s" % self.name


# ── Canonical JSON ──

def no_constant(word):
    raise ValueError(word)


def is_plain(value, depth=DEPTH_MAX):
    if isinstance(value, float):
        return False
    if isinstance(value, int):
        return -2**63 <= value < 2**64
    if isinstance(value, (list, dict)):
        items = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(is_plain(item, depth - 1) for item in items)
    return True


def read_json(text):
    try:
        body = json.loads(text, parse_constant=no_constant)
    except (ValueError, RecursionError):
        raise Wrong("it is not JSON")
    if not isinstance(body, dict) or not is_plain(body):
        raise Wrong("it is not canonical JSON")
    if json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False) != text:
        raise Wrong("it is not canonical JSON")
    return body


# ── A store ──

class Store:
    def __init__(self, root):
        self.root = root

    def path(self, key):
        parts = key.split("/")
        if len(key) > 700 or not all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}", part) for part in parts):
            raise Wrong("`%s` is no key" % shown(key))
        path = self.root
        for part in parts:
            path = os.path.join(path, part)
            # No link is followed: what is meant lies in the store.
            if stat.S_ISLNK(os.lstat(path).st_mode):
                raise Wrong("%s leads through a link" % key)
        return path

    def names(self, prefix):
        try:
            return sorted(name for name in os.listdir(self.path(prefix)) if not name.startswith("."))
        except FileNotFoundError:
            return []

    def read(self, key, bytes_max):
        with open(self.path(key), "rb") as file:
            return file.read(bytes_max + 1)

    def check_object(self, entry):
        key, size, digest = entry["key"], entry["stored-bytes"], entry["stored-sha256"]
        try:
            path = self.path(key)
        except FileNotFoundError:
            raise Wrong("object %s is not there" % key)
        if os.lstat(path).st_size != size:
            raise Wrong("object %s has %d bytes, the manifest says %d" % (key, os.lstat(path).st_size, size))
        sha256 = hashlib.sha256()
        with open(path, "rb") as file:
            for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
                sha256.update(chunk)
        if sha256.hexdigest() != digest:
            raise Wrong("object %s hashes to %s, the manifest says %s" % (key, sha256.hexdigest(), digest))


def objects_of(manifest, service, backup):
    """Every object of a manifest, if the manifest is one of this backup."""
    try:
        if (manifest["format"], manifest["service"], manifest["id"]) != (MANIFEST, service, backup):
            raise Wrong("it is of backup %s of service %s" % (shown(str(manifest["id"])), shown(str(manifest["service"]))))
        entries = [entry for source in manifest["sources"] for entry in source["objects"]]
        keys = [entry["key"] for entry in entries]
        plain = all(isinstance(e["stored-bytes"], int) and re.fullmatch(r"[0-9a-f]{64}", e["stored-sha256"]) for e in entries)
    except (KeyError, TypeError):
        raise Wrong("it has not the fields of a manifest")
    if not keys or not plain or len(set(keys)) != len(keys):
        raise Wrong("its objects are not sound")
    prefix = "%s/objects/%s/" % (service, backup)
    for key in keys:
        if not key.startswith(prefix):
            raise Wrong("object %s is not below %s" % (shown(key), prefix))
    return entries


def verify(store, service, backup, trust):
    """Gives the lines to say, or raises Wrong."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", service):
        raise Wrong("`%s` is no name of a service" % shown(service))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{7,63}", backup):
        raise Wrong("`%s` is no id of a backup" % shown(backup))
    if backup + ".json" in store.names("%s/tombstones" % service):
        raise Wrong("backup %s was removed, or is being removed" % backup)
    found = [name for name in store.names("%s/manifests" % service) if name.startswith(backup + ".")]
    if len(found) != 1:
        raise Wrong("backup %s has %d manifests, 1 expected" % (backup, len(found)))
    match = re.fullmatch(r"[^.]+\.([0-9a-f]{64})\.json", found[0])
    if not match:
        raise Wrong("%s is no manifest's key" % shown(found[0]))
    digest = match[1]
    data = store.read("%s/manifests/%s" % (service, found[0]), NOTE_BYTES_MAX)
    try:
        if hashlib.sha256(data).hexdigest() != digest:
            raise Wrong("its bytes hash to %s, its key says %s" % (hashlib.sha256(data).hexdigest(), digest))
        text = Text(data, MANIFEST)
        by = text.held(trust)
        entries = objects_of(text.body, service, backup)
    except Wrong as wrong:
        raise Wrong("manifest %s: %s" % (found[0], wrong))
    said = ["manifest %s: %s" % (found[0], by)]
    for entry in entries:
        store.check_object(entry)
    said.append("objects: %d, each as the manifest says" % len(entries))
    said.extend(verifications(store, service, backup, digest, trust))
    return said


def verifications(store, service, backup, digest, trust):
    folder = "%s/records/%s" % (service, backup)
    for name in store.names(folder):
        kind = {"verified": VERIFIED, "checked": CHECKED}.get(name.partition("-")[0])
        if kind is None:
            continue
        try:
            record = Text(store.read("%s/%s" % (folder, name), NOTE_BYTES_MAX), kind)
            by = record.held(trust)
            if (record.body.get("format"), record.body.get("backup")) != (kind, backup):
                raise Wrong("it is a record of another backup")
            if record.body.get("digest") != digest:
                raise Wrong("it is of another manifest")
            what = "verified" if kind == VERIFIED else "checked (%s)" % shown(str(record.body.get("depth")))
            of = record.body.get("store")
            where = "" if of is None else ", of store %s" % shown(str(of))
            yield "%s at %s: %s%s" % (what, utc(record.body.get("at-ms")), by, where)
        except Wrong as wrong:
            yield "%s does not count: %s" % (shown(name), wrong)


def utc(ms):
    try:
        at = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=ms // 1000)
        return at.isoformat() + "Z"
    except (OverflowError, TypeError):
        return "%s ms" % shown(str(ms))


def main():
    parser = argparse.ArgumentParser(description="Verifies a backup of Lifeboat in a directory store.")
    parser.add_argument("store")
    parser.add_argument("service")
    parser.add_argument("backup")
    parser.add_argument("--key")
    arguments = parser.parse_args()
    try:
        trust = None
        if arguments.key:
            with open(arguments.key, "rb") as file:
                data = file.read(KEY_FILE_BYTES_MAX)
            try:
                trust = read_trust(data.decode("utf-8"))
            except UnicodeDecodeError:
                raise Wrong("key %s: not UTF-8" % shown(arguments.key))
            except Wrong as wrong:
                raise Wrong("key %s: %s" % (shown(arguments.key), wrong))
        for line in verify(Store(arguments.store), arguments.service, arguments.backup, trust):
            print(line)
    except Wrong as wrong:
        print("error: %s" % wrong, file=sys.stderr)
        return 5
    except OSError as error:
        print("error: %s" % error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
