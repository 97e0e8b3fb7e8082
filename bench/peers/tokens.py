"""A token issuer for distribution, so that it checks a bearer token at each request as we do.

It wants a JWT whose ``kid`` is the fingerprint of a key in its ``rootcertbundle`` (libtrust's: SHA-256 of the public
key's DER, 240 bits of it, in base32). That is the cheapest way that it has: a certificate in the token's own head would
be verified again at each request.
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


class Issuer:
    """A key, and what it signs."""

    def __init__(self) -> None:
        # ES256, which its makers' own examples use: RSA would be cheaper to verify, and EdDSA it does not know.
        self._key = ec.generate_private_key(ec.SECP256R1())

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

    def token(self) -> str:
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
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self.fingerprint})
