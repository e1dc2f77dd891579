#!/usr/bin/env python3
"""Verifies an exported log of Lifeboat, without Lifeboat: written from FORMATS.md alone, standard library only (Python 3.9 or later).

    verify_audit.py LOG [--key FILE] [--checkpoint FILE]...

LOG: what `lifeboat audit export` wrote. --key: the keys that you trust, a line `NAME+HASH+BASE64 KIND...` each, as `lifeboat audit key`
says it. --checkpoint: a signed checkpoint that you hold. Says what is proven and exits with 0; says what is wrong, the first bad record by
its number, and exits with 5; exits with 2 where a file can't be read or the arguments make no sense.
"""

import argparse
import base64
import binascii
import datetime
import hashlib
import json
import re
import sys

CHECKPOINT = "lifeboat/checkpoint/1"
ROTATION = "lifeboat/key-rotation/1"
GENESIS = "0" * 64
VERSIONS = (1, 2)
DEPTH_MAX = 100
NOTE_BYTES_MAX = 16 << 10
SMALL_BYTES_MAX = 64 << 10


class Wrong(Exception):
    """What is wrong, in words."""


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


BASE_Y = 4 * pow(5, P - 2, P) % P
BASE = decode_point(BASE_Y.to_bytes(32, "little"))


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


# ── Signed notes ──

def strict_base64(text):
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Wrong("its base64 is not the one text of its bytes")
    if base64.b64encode(data).decode() != text:
        raise Wrong("its base64 is not the one text of its bytes")
    return data


def number(text):
    if not re.fullmatch(r"0|[1-9][0-9]{0,19}", text) or int(text) >= 2**64:
        raise Wrong("`%s` is no number" % shown(text))
    return int(text)


def check_id(text):
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", text):
        raise Wrong("`%s` is no id" % shown(text))


def check_name(name):
    origin, slash, epoch = name.partition("/")
    if not slash:
        raise Wrong("a key's name is ORIGIN/EPOCH")
    check_id(origin)
    number(epoch)


def shown(text):
    return "".join(c if c.isprintable() else "\\u{%x}" % ord(c) for c in text[:120])


class Key:
    """NAME+HASH+BASE64: a public key and its name."""

    def __init__(self, text):
        parts = text.split("+", 2)
        if len(parts) != 3:
            raise Wrong("a key is NAME+HASH+BASE64")
        self.text, self.name = text, parts[0]
        check_name(self.name)
        data = strict_base64(parts[2])
        if len(data) != 33 or data[0] != 1:
            raise Wrong("its key is no Ed25519 key")
        self.key = data[1:]
        self.hash = hashlib.sha256(self.name.encode() + b"\n" + data).digest()[:4]
        if self.hash.hex() != parts[1]:
            raise Wrong("its hash is not that of its name and key")


class Note:
    """A text, an empty line, and a line `— NAME BASE64` for each signature."""

    def __init__(self, note):
        if len(note.encode()) > NOTE_BYTES_MAX:
            raise Wrong("it is too long")
        text, empty, lines = note.partition("\n\n")
        if not empty:
            raise Wrong("it has no empty line before its signatures")
        if not lines.endswith("\n"):
            raise Wrong("its last line does not end")
        self.text, self.signatures = text + "\n", []
        for line in lines[:-1].split("\n"):
            if not line.startswith("\u2014 "):
                raise Wrong("a line after the empty one is no signature")
            name, space, signed = line[2:].partition(" ")
            if not space:
                raise Wrong("a signature is NAME BASE64")
            check_name(name)
            data = strict_base64(signed)
            if len(data) < 4:
                raise Wrong("a signature is too short")
            if len(data) != 68:
                raise Wrong("a signature is not 64 bytes long")
            self.signatures.append((name, data[:4], data[4:]))

    def verify(self, keys):
        """One signature for each key, in order; one more or less, or of another key, is refused."""
        if len(self.signatures) != len(keys):
            raise Wrong("it has %d signatures, %d expected" % (len(self.signatures), len(keys)))
        for (name, key_hash, signature), key in zip(self.signatures, keys):
            if name != key.name or key_hash != key.hash:
                raise Wrong("it is signed by another key than %s" % key.name)
            if not ed25519_holds(key.key, self.text.encode(), signature):
                raise Wrong("its signature by %s does not hold" % key.name)

    def fields(self, kind, names):
        """The lines `NAME VALUE` after the first line, which is the kind."""
        lines = self.text[:-1].split("\n")
        if lines[0] != kind:
            raise Wrong("it is no %s, it begins with `%s`" % (kind, shown(lines[0])))
        values = []
        for at, name in enumerate(names, 1):
            line = lines[at] if at < len(lines) else ""
            value = line[len(name) + 1:]
            if not line.startswith(name + " ") or not value or re.search(r"[\x00-\x1f\x7f-\x9f]", value):
                raise Wrong("it has no line `%s …` in its place" % name)
            values.append(value)
        if len(lines) != len(names) + 1:
            raise Wrong("it has a line too many")
        return values


class Checkpoint:
    def __init__(self, called, note):
        self.called, self.note = called, Note(note)
        origin, size, head, time, run, epoch = self.note.fields(
            CHECKPOINT, ["origin", "size", "head", "time-ms", "run", "epoch"])
        check_id(origin)
        check_id(run)
        if not re.fullmatch(r"[0-9a-f]{64}", head):
            raise Wrong("its head is no SHA-256")
        self.origin, self.size, self.head = origin, number(size), head
        self.time_ms, self.epoch = number(time), number(epoch)


class Rotation:
    def __init__(self, note):
        note = Note(note)
        origin, epoch, old, new = note.fields(ROTATION, ["origin", "epoch", "old", "new"])
        check_id(origin)
        self.epoch, self.old, self.new = number(epoch), Key(old), Key(new)
        names = "%s/%d" % (origin, self.epoch - 1), "%s/%d" % (origin, self.epoch)
        if self.epoch < 2 or (self.old.name, self.new.name) != names:
            raise Wrong("its keys have not the names of its epochs")
        note.verify([self.old, self.new])


class Trust:
    """Keys that are trusted, and for which kinds of texts."""

    def __init__(self, text=None):
        self.entries = []
        if text is None:
            return
        lines = text[:-1] if text.endswith("\n") else text
        for at, line in enumerate(lines.split("\n"), 1):
            try:
                words = line.split(" ")
                key, kinds = Key(words[0]), words[1:]
                if not kinds:
                    raise Wrong("it does not say which kinds of texts the key may sign")
                for kind in kinds:
                    if kind not in (CHECKPOINT, ROTATION):
                        raise Wrong("`%s` is no kind of text; there is: %s, %s" % (shown(kind), CHECKPOINT, ROTATION))
            except Wrong as wrong:
                raise Wrong("line %d: %s" % (at, wrong))
            self.entries.append((key, kinds))

    def named(self, name):
        return next((key for key, _ in self.entries if key.name == name), None)

    def knows(self, key):
        return any(trusted.text == key.text for trusted, _ in self.entries)

    def allows(self, key, kind):
        return any(trusted.text == key.text and kind in kinds for trusted, kinds in self.entries)


# ── Records ──

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


NEW, RUNNING, ENDING, ENDED = "New", "Running", "Ending", "Ended"


def next_stand(stand, kind, step):
    """What may follow what. A stand is a word, or ("InStep", step), or ("Parked", step or None)."""
    inside = isinstance(stand, tuple) and stand[0] == "InStep"
    parked = isinstance(stand, tuple) and stand[0] == "Parked"
    if stand == NEW:
        return {"run-started": RUNNING, "key-rotated": ENDED}.get(kind)
    if stand == ENDED:
        return None
    if kind in ("settled", "cancel-requested") or kind == "voted" and stand != ENDING:
        return stand
    if kind == "run-ended":
        return ENDED
    if kind == "resumed" and not parked:
        return stand
    if stand == ENDING:
        return None
    if kind == "ending":
        return ENDING
    if stand == RUNNING:
        if kind == "started" and step is not None:
            return ("InStep", step)
        return {"answered": RUNNING, "parked": ("Parked", None)}.get(kind)
    if inside:
        if kind == "started" and step == stand[1]:
            return stand
        if kind == "completed" and step == stand[1]:
            return RUNNING
        return {"parked": ("Parked", stand[1])}.get(kind)
    if kind == "resolved" and stand[1] is not None and step == stand[1]:
        return ("Parked", None)
    return {"resumed": RUNNING if stand[1] is None else ("InStep", stand[1])}.get(kind)


KINDS = (
    "run-started", "answered", "started", "completed", "parked", "resumed", "resolved", "cancel-requested", "ending", "settled", "voted",
    "run-ended", "key-rotated",
)


class Walk:
    """A walk over the log's lines; an error names the record."""

    def __init__(self, asked=()):
        self.seq, self.head = 0, GENESIS
        self.runs, self.rotations = {}, []
        self.hashes = {0: GENESIS}
        self.asked = set(asked)

    def line(self, line):
        try:
            self.check(self.seq + 1, line)
        except Wrong as wrong:
            raise Wrong("record %d: %s" % (self.seq + 1, wrong))

    def check(self, seq, line):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            raise Wrong("not UTF-8")
        try:
            body = json.loads(text, parse_constant=no_constant)
        except (ValueError, RecursionError):
            raise Wrong("not JSON")
        if not isinstance(body, dict) or not is_plain(body):
            raise Wrong("not canonical JSON")
        if json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False) != text:
            raise Wrong("not canonical JSON")

        def word(field):
            value = body.get(field)
            if not isinstance(value, str) or not value:
                raise Wrong("it has no `%s`" % field)
            return value

        def whole(field):
            value = body.get(field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise Wrong("it has no `%s`" % field)
            return value

        version = whole("v")
        if version not in VERSIONS:
            raise Wrong("its version %d is not known" % version)
        if whole("seq") != seq or word("prev") != self.head:
            raise Wrong("it does not follow the record before it")
        run, time_ms, kind = word("run"), whole("time-ms"), word("kind")
        if kind not in KINDS:
            raise Wrong("it is of an unknown kind")
        step = body.get("step")
        if step is not None:
            try:
                whole("step")
            except Wrong:
                raise Wrong("its step is no number")
        if version > 1:
            word("actor"), word("channel")
        stand, last_ms = self.runs.get(run, (NEW, 0))
        after = next_stand(stand, kind, step)
        if after is None:
            raise Wrong("a record `%s` can't follow where its run stands" % kind)
        if time_ms < last_ms:
            raise Wrong("its time is before that of the run's record before")
        if kind == "run-ended":
            word("status")
        if kind == "key-rotated":
            self.rotations.append((seq, word("rotation")))
        self.runs[run] = after, time_ms
        self.seq, self.head = seq, hashlib.sha256(line).hexdigest()
        if seq in self.asked:
            self.hashes[seq] = self.head


def verify(lines, checkpoints, trust):
    """`lines`: an iterable of lines as bytes, each with its line feed. Gives the verdict in words, or raises Wrong."""
    walk = Walk(checkpoint.size for checkpoint in checkpoints)
    for line in lines:
        if not line.endswith(b"\n"):
            raise Wrong("record %d: its line does not end" % (walk.seq + 1))
        walk.line(line[:-1])
    rotations = []
    for seq, text in walk.rotations:
        try:
            rotation = Rotation(text)
            if rotation.epoch != len(rotations) + 2:
                raise Wrong("epoch %d where %d begins" % (rotation.epoch, len(rotations) + 2))
            if rotations and rotations[-1][1].new.text != rotation.old.text:
                raise Wrong("its old key is not the one that signed until here")
        except Wrong as wrong:
            raise Wrong("record %d: its key rotation: %s" % (seq, wrong))
        rotations.append((seq, rotation))
    best = None
    for checkpoint in checkpoints:
        try:
            key = check(checkpoint, walk, rotations, trust)
        except Wrong as wrong:
            raise Wrong("checkpoint %s: %s" % (checkpoint.called, wrong))
        if best is None or best[0].size < checkpoint.size:
            best = checkpoint, key
    if best is None:
        return "consistent up to record %d, end not provable" % walk.seq
    checkpoint, key = best
    words = "complete up to record %d, signed by %s at %s" % (checkpoint.size, key.name, utc(checkpoint.time_ms))
    after = walk.seq - checkpoint.size
    if after:
        words += "; records after it: %d, consistent, their end is not provable" % after
    return words


def utc(ms):
    try:
        at = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=ms // 1000)
        return at.isoformat() + "Z"
    except OverflowError:
        return "%d ms" % ms


def check(checkpoint, walk, rotations, trust):
    """The key that signed it, if all holds."""
    named = {}
    for _, rotation in rotations:
        named[rotation.epoch - 1], named[rotation.epoch] = rotation.old, rotation.new
    name = "%s/%d" % (checkpoint.origin, checkpoint.epoch)
    key = named.get(checkpoint.epoch) or trust.named(name)
    if key is not None:
        linked = any(trust.allows(r.old, ROTATION) or trust.allows(r.new, ROTATION) for _, r in rotations)
        if not (trust.allows(key, CHECKPOINT) if trust.knows(key) else linked):
            key = None
    if key is None:
        raise Wrong("it is signed by %s, and no trusted key may sign it" % shown(checkpoint.note.signatures[0][0]))
    checkpoint.note.verify([key])
    if key.name != name:
        raise Wrong("it is of the log %s, its key of another" % checkpoint.origin)
    if checkpoint.size > walk.seq:
        raise Wrong("it has %d records, the log %d: the end was cut off" % (checkpoint.size, walk.seq))
    if walk.hashes[checkpoint.size] != checkpoint.head:
        raise Wrong("record %d is not the one it was made of: the log was changed there or before" % checkpoint.size)
    epoch = 1 + sum(seq <= checkpoint.size for seq, _ in rotations)
    if epoch != checkpoint.epoch:
        raise Wrong("it is signed by the key of epoch %d, at record %d it was epoch %d"
                    % (checkpoint.epoch, checkpoint.size, epoch))
    return key


# ── The command ──

def read_small(path):
    with open(path, "rb") as file:
        data = file.read(SMALL_BYTES_MAX)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Wrong("%s: not UTF-8" % shown(path))


def main():
    parser = argparse.ArgumentParser(description="Verifies an exported log of Lifeboat.")
    parser.add_argument("log")
    parser.add_argument("--key")
    parser.add_argument("--checkpoint", action="append", default=[])
    arguments = parser.parse_args()
    if arguments.checkpoint and not arguments.key:
        parser.error("a checkpoint proves nothing without a key that is trusted: --key FILE")
    try:
        checkpoints = []
        for path in arguments.checkpoint:
            try:
                checkpoints.append(Checkpoint(shown(path), read_small(path)))
            except Wrong as wrong:
                raise Wrong("checkpoint %s: %s" % (shown(path), wrong))
        trust = Trust()
        if arguments.key:
            try:
                trust = Trust(read_small(arguments.key))
            except Wrong as wrong:
                raise Wrong("key %s: %s" % (shown(arguments.key), wrong))
        with open(arguments.log, "rb") as lines:
            print(verify(lines, checkpoints, trust))
    except Wrong as wrong:
        print("error: %s" % wrong, file=sys.stderr)
        return 5
    except OSError as error:
        print("error: %s" % error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
