"""Tokens for distribution: who signed them, and what they allow."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from jwt.algorithms import ECAlgorithm
from jwt.utils import base64url_encode

from bench.peers.tokens import ISSUER, SERVICE, Issuer
from bench.server import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path


def test_a_token_is_signed_by_the_certificate(tmp_path: Path) -> None:
    issuer = Issuer()
    issuer.write_certificate(tmp_path / "certificate.pem")
    key = x509.load_pem_x509_certificate((tmp_path / "certificate.pem").read_bytes()).public_key()
    assert isinstance(key, EllipticCurvePublicKey)
    token = issuer.token(issuer.fingerprint)
    claims = jwt.decode(token, key, algorithms=["ES256"], audience=SERVICE, issuer=ISSUER)
    assert claims["access"] == [{"type": "repository", "name": REPOSITORY, "actions": ["pull", "push"]}]
    assert jwt.get_unverified_header(token)["kid"] == issuer.fingerprint
    assert re.fullmatch(r"([A-Z2-7]{4}:){11}[A-Z2-7]{4}", issuer.fingerprint)

    public = json.loads(ECAlgorithm.to_jwk(key))
    content = json.dumps({name: public[name] for name in ("crv", "kty", "x", "y")}, separators=(",", ":"))
    assert issuer.thumbprint == base64url_encode(hashlib.sha256(content.encode()).digest()).decode()
