#!/usr/bin/env python3
"""Verify the signature in a FHIR Provenance of a vitalgate Bundle with Python, the module jwcrypto and openssl.

usage: provenance.py AUTHORITY.pem BUNDLE.json PROVENANCE.json
"""
import base64, json, os, subprocess, sys, tempfile
from jwcrypto import jwk, jws

def need(ok, why):
    if not ok: sys.exit("REFUSED: " + why)

def verify(authority, bundle, provenance):
    (signature,) = json.loads(provenance)["signature"]
    need(signature["sigFormat"] == "application/jose", "this is not a JWS")
    compact = base64.b64decode(signature["data"], validate=True).decode()
    head, empty, _ = compact.split(".")
    need(empty == "", "the content is not detached")
    chain = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["x5c"]
    with tempfile.TemporaryDirectory() as tmp:
        cert = os.path.join(tmp, "cert")
        pem = subprocess.run(["openssl", "x509", "-inform", "DER"], input=base64.b64decode(chain[0], validate=True), capture_output=True).stdout
        with open(cert, "wb") as f: f.write(pem)
        done = subprocess.run(["openssl", "verify", "-no_check_time", "-CAfile", authority, cert], capture_output=True)
        need(done.returncode == 0, "the signer is not of this authority")
    token = jws.JWS()
    token.allowed_algs = ["ES256"]
    token.deserialize(compact)
    token.verify(jwk.JWK.from_pem(pem), detached_payload=bundle)
    return "OK: " + signature["who"]["display"] + " vouches for this Bundle, byte for byte"

if __name__ == "__main__":
    need(len(sys.argv) == 4, __doc__.strip())
    try: print(verify(sys.argv[1], open(sys.argv[2], "rb").read(), open(sys.argv[3], "rb").read()))
    except (ValueError, KeyError, TypeError, IndexError, OSError, jws.InvalidJWSSignature, jws.InvalidJWSObject) as e: need(False, f"{type(e).__name__}: {e}")
