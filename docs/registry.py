#!/usr/bin/env python3
"""Verify an exported registry (docs/registry.md) with nothing but Python 3 and openssl: every entry, signed by enough of those who
were administrators at its place, over all entries before it.

usage: registry.py LOG ROOT-KEY.pem...        the public keys of the administrators who began it
"""
import base64, hashlib, json, os, subprocess, sys, tempfile

def need(ok, why):
    if not ok: sys.exit("REFUSED: " + why)

def unbase64(s):
    raw = base64.b64decode(s, validate=True)
    need(base64.b64encode(raw).decode() == s, "base64 is not in its canonical form")
    return raw

def der(pem):
    return base64.b64decode("".join(l for l in pem.strip().split("\n") if not l.startswith("-----")), validate=True)

def signed(pem, text, signature):
    with tempfile.TemporaryDirectory() as tmp:
        key, sig, body = (os.path.join(tmp, n) for n in ("key", "sig", "text"))
        for path, b in ((key, pem.encode()), (sig, signature), (body, text)):
            open(path, "wb").write(b)
        how = ["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", key, "-sigfile", sig, "-in", body] if len(der(pem)) == 44 else \
              ["dgst", "-sha256", "-verify", key, "-signature", sig, body]
        return subprocess.run(["openssl"] + how, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0

def key_id(name, pem):  # C2SP signed-note: Ed25519 is type 0x01, of ECDSA the hash of the key alone counts
    k = der(pem)
    return hashlib.sha256(name.encode() + b"\n\x01" + k[-32:] if len(k) == 44 else k).digest()[:4]

class Tree:  # RFC 9162 section 2.1.1, as the roots of its complete subtrees
    def __init__(self): self.roots = []
    def add(self, leaf):
        size, node = 1, hashlib.sha256(b"\0" + leaf).digest()
        while self.roots and self.roots[-1][0] == size:
            size, node = 2 * size, hashlib.sha256(b"\1" + self.roots.pop()[1] + node).digest()
        self.roots.append((size, node))
    def root(self):
        if not self.roots: return hashlib.sha256(b"").digest()
        *rest, (_, node) = self.roots
        for _, left in reversed(rest): node = hashlib.sha256(b"\1" + left + node).digest()
        return node

def verify(log, roots):
    council, threshold, tree, facility, n = {}, 0, Tree(), None, 0
    need(log.endswith("\n") and not log.endswith("\n\n"), "the log is cut off")
    parts = log[:-1].split("\n\n")
    need(len(parts) % 2 == 0, "the log is cut off")
    for text, signatures in zip(parts[0::2], parts[1::2]):
        origin, index, before, head, body = text.split("\n")
        version, kind, time = head.split(" ")
        decision = json.loads(body)
        need(version == "v1" and index == str(n), f"entry {n} is missing, or of another version")
        need(origin == (facility or origin) and origin.startswith("vitalgate/") and origin.endswith("/_registry"), f"entry {n} is of another registry")
        need(unbase64(before) == tree.root(), f"entry {n} was signed over another history")
        need((kind == "genesis") == (n == 0), f"entry {n} begins a registry, or the first does not")
        members = {a["name"]: a["key"] for a in decision["administrators"]} if kind in ("genesis", "administrators") else council
        if n == 0:
            need(sorted(map(der, members.values())) == sorted(map(der, roots)), "it was begun by others than the given keys")
            facility, council, threshold = origin, members, decision["threshold"]
        names = set()
        for line in signatures.split("\n"):
            dash, name, signature = line.split(" ")
            signature = unbase64(signature)
            need(dash == "\u2014" and name in council and name not in names, f"entry {n} is signed by {name}, who may not")
            need(signature[:4] == key_id(name, council[name]) and signed(council[name], (text + "\n").encode(), signature[4:]),
                 f"the signature of {name} on entry {n} is wrong")
            names.add(name)
        need(len(names) >= (1 if kind == "suspend" else threshold), f"too few administrators have signed entry {n}")
        if kind == "administrators": council, threshold = members, decision["threshold"]
        tree.add((text + "\n").encode())
        n += 1
    return f"OK: {n} entries of {facility}, root {base64.b64encode(tree.root()).decode()}, the last of {time}, {threshold} of {len(council)} administrators decide"

if __name__ == "__main__":
    need(len(sys.argv) >= 3, __doc__.strip())
    try: print(verify(open(sys.argv[1], newline="").read(), [open(k).read() for k in sys.argv[2:]]))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as e: need(False, f"malformed: {e}")
