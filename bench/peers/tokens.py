"""A token issuer for distribution, so that it checks a bearer token at each request as we do.

It wants a JWT whose ``kid`` names a key in its ``rootcertbundle``: release 2 by libtrust's fingerprint (SHA-256 of the
public key's DER, 240 bits of it, in base32), release 3 by RFC 7638's thumbprint. That is the cheapest way that it has:
a certificate in the token's own head would be verified again at each request.
"""

from __future__ import annotations

import base64
import hashlib
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.server import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

ISSUER = "enseada-bench"
SERVICE = "bench"
LIFETIME = 24 * 3600
"""Seconds that tokens are valid, more than any run takes."""
FINGERPRINT_BYTES = 30
COORDINATE_BYTES = 32


class Issuer:
    """A key, and what it signs."""

    def __init__(self) -> None:
        # ES256, which its makers' own examples use: RSA would be cheaper to verify, and EdDSA it does not know.
        self._key = ec.generate_private_key(ec.SECP256R1())
        # Release 3 leaves leading zeros out of the thumbprint, against RFC 7518 6.2.1.2: no key that has some.
        while min(self._numbers.x, self._numbers.y).bit_length() <= 8 * (COORDINATE_BYTES - 1):
            self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def _numbers(self) -> ec.EllipticCurvePublicNumbers:
        return self._key.public_key().public_numbers()

    def write_certificate(self, path: Path) -> None:
        """Write the certificate that distribution is to trust."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=30))
            .sign(self._key, hashes.SHA256())
        )
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    @property
    def fingerprint(self) -> str:
        """The key's id, as libtrust writes it."""
        public = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        text = base64.b32encode(hashlib.sha256(public).digest()[:FINGERPRINT_BYTES]).decode()
        return ":".join(text[start : start + 4] for start in range(0, len(text), 4))

    @property
    def thumbprint(self) -> str:
        """The key's id, as RFC 7638 has it."""
        x, y = (_base64url(each.to_bytes(COORDINATE_BYTES, "big")) for each in (self._numbers.x, self._numbers.y))
        return _base64url(hashlib.sha256(f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'.encode()).digest())

    def token(self, key_id: str) -> str:
        """A token that may pull from and push to `REPOSITORY`."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": "bench",
            "aud": SERVICE,
            "exp": now + LIFETIME,
            "nbf": now - 60,
            "iat": now,
            "jti": "bench",
            "access": [{"type": "repository", "name": REPOSITORY, "actions": ["pull", "push"]}],
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": key_id})


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
