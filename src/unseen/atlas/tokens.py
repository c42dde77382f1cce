"""Signed texts that expire: in links of mails and in forms. Who lacks the database's secret cannot make one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from typing import Any

from unseen.atlas.store import Store

DAY = 86_400.0


class Tokens:
    """Makes and reads signed tokens with the secret of one database, which is drawn when it is first needed."""

    def __init__(self, store: Store):
        kept = store.fact("secret")
        if kept is None:
            with store.write() as run:
                run(
                    "INSERT INTO meta(name, value) VALUES ('secret', ?) ON CONFLICT (name) DO NOTHING",
                    secrets.token_hex(32),
                )
            kept = store.fact("secret")
        self._key = bytes.fromhex(str(kept))

    def sign(self, purpose: str, data: Any, lifetime: float) -> str:
        """A token for one purpose with JSON data in it, good for `lifetime` seconds."""
        body = json.dumps([purpose, int(time.time() + lifetime), data], separators=(",", ":")).encode()
        return f"{_text(body)}.{_text(self._mac(body))}"

    def read(self, purpose: str, token: str) -> Any:
        """The data of a token, None if it is not ours, is for another purpose, or has expired."""
        head, _, tail = token.partition(".")
        try:
            body, mac = _bytes(head), _bytes(tail)
        except ValueError:
            return None
        if not hmac.compare_digest(mac, self._mac(body)):
            return None
        meant, until, data = json.loads(body)
        return data if meant == purpose and time.time() < until else None

    def blind(self, *parts: str) -> str:
        """A name for a person's address that does not give it away."""
        return hmac.new(self._key, "\x1f".join(("blind", *parts)).encode(), hashlib.sha256).hexdigest()[:32]

    def _mac(self, body: bytes) -> bytes:
        return hmac.new(self._key, b"token\x1f" + body, hashlib.sha256).digest()


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _bytes(said: str) -> bytes:
    if not said.isascii() or len(said) > 4_000:
        raise ValueError("no token")
    return base64.b64decode(said + "=" * (-len(said) % 4), altchars=b"-_", validate=True)
