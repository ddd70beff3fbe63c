"""Text without the credentials of this process, for what is kept or shown to others."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import quote

SECRET_CHARACTERS_MIN = 8
"""Shorter values are switches and numbers; to hide each "1" or "true" would hide the text."""

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|SIGNATURE|CONNECTION_STRING", re.I)
_SIGNED = re.compile(
    r"\b(sig|X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token))=[^&\s\"'<>]+", re.IGNORECASE
)
"""Parts of a URL that carry the right to read it."""
_USER = re.compile(r"://[^/\s:@]+:[^/\s@]+@")


def redacted(text: str) -> str:
    """`text` with the name of the variable where the value of one that holds a secret was.

    A variable holds a secret when its name says so (AWS_SECRET_ACCESS_KEY, HF_TOKEN, ...); of a connection
    string also each secret part is hidden. So are signatures of URLs, and users with passwords in them.
    """
    for name, value in sorted(_secrets(), key=lambda secret: -len(secret[1])):
        text = text.replace(value, f"[{name}]")
    return _USER.sub("://[user]@", _SIGNED.sub(r"\1=[hidden]", text))


def _secrets() -> Iterator[tuple[str, str]]:
    """Names and values, also as they stand in URLs."""
    for name, value in os.environ.items():
        if not _SECRET_NAME.search(name) or os.path.exists(value):  # a file's name is no secret
            continue
        parts = [part.partition("=") for part in value.split(";")]
        for secret in (value, *(part for of, _, part in parts if _SECRET_NAME.search(of))):
            if len(secret) >= SECRET_CHARACTERS_MIN:
                yield name, secret
                yield name, quote(secret, safe="")
