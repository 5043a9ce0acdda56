#!/usr/bin/env python3
"""What other people's tools make of the documents that go with a release. Exits with 1 and says why where they refuse one.

    pip install -r requirements-supply.txt
    python supply_chain.py keys FOLDER              P-256 keys in both PEM forms: sec1.pem, pkcs8.pem, public.pem, stranger.pem
    python supply_chain.py bom FILE                 CycloneDX 1.6, by the official schema, unknown parts refused
    python supply_chain.py provenance FILE PUBLIC   DSSE by securesystemslib, statement and predicate by in-toto's own types;
                                                    prints the statement. PUBLIC is an ed25519 key in hex

The model signatures themselves are checked with `python -m model_signing`, the tool as it is.
"""
import json
import pathlib
import sys

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement, statement_pb2
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey


def keys(folder):
    folder = pathlib.Path(folder)
    key, none = ec.generate_private_key(ec.SECP256R1()), serialization.NoEncryption()
    pem, formats = serialization.Encoding.PEM, serialization.PrivateFormat
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    (folder / "sec1.pem").write_bytes(key.private_bytes(pem, formats.TraditionalOpenSSL, none))
    (folder / "pkcs8.pem").write_bytes(key.private_bytes(pem, formats.PKCS8, none))
    (folder / "public.pem").write_bytes(key.public_key().public_bytes(pem, spki))
    (folder / "stranger.pem").write_bytes(ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(pem, spki))


def bom(file):
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(pathlib.Path(file).read_text())
    if error is not None:
        sys.exit(str(error))


def provenance(file, public):
    described = {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": public}}
    data = json.loads(pathlib.Path(file).read_text())
    key = SSlibKey.from_dict(data["signatures"][0]["keyid"], described)
    envelope = Envelope.from_dict(data)
    envelope.verify([key], 1)
    if envelope.payload_type != "application/vnd.in-toto+json":
        sys.exit(envelope.payload_type)
    # Both readers refuse fields that they do not know.
    said = json.loads(envelope.payload)
    read = json_format.ParseDict(said, statement_pb2.Statement())
    statement.Statement.copy_from_pb(read).validate()
    json_format.ParseDict(said["predicate"], provenance_pb2.Provenance())
    print(json.dumps(said))


if __name__ == "__main__":
    {"keys": keys, "bom": bom, "provenance": provenance}[sys.argv[1]](*sys.argv[2:])
