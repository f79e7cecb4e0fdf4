"""What a policy says of prompts and answers: by default none is stored, and no ledger row has a place for one."""

import base64
import binascii
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Final

from pydantic import AfterValidator, Field, SecretStr, model_validator

from backends.words import JsonValue
from policies.values import Duration, Part, Size

DEFAULT_CONTENT_RETENTION: Final = timedelta(days=30)
DEFAULT_CONTENT_BYTES: Final = 65_536  # of one prompt or answer: 15,000 tokens of English
DEFAULT_CONTENT_STORE_BYTES: Final = 1_000_000_000
KEY_BYTES: Final = 32


class Keep(StrEnum):
    """What becomes of prompts and answers beside their passage through."""

    NONE = "none"
    """They are not stored."""
    REDACTED = "redacted"
    """They are stored as text, without addresses, numbers and secrets that patterns can tell. Names stay."""
    ENCRYPTED = "encrypted"
    """They are stored under a key that only the environment has."""


def key_of(text: str) -> bytes:
    """Return the key that 32 bytes in base64 (or 64 hex digits) stand for.

    Raises:
        ValueError: it stands for none.
    """
    try:
        key = bytes.fromhex(text) if len(text) == 2 * KEY_BYTES else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError("expected a key of 32 bytes in base64; make one with `faregate content key`")
    return key


def _key(value: SecretStr) -> SecretStr:
    key_of(value.get_secret_value())
    return value


class Content(Part):
    """Whether prompts and answers are stored, and how. `content: redacted` alone has the other keys' defaults.

    Attributes:
        keep: `none`, `redacted` or `encrypted`.
        key: what they are encrypted with: 32 bytes in base64, from the environment (`${FAREGATE_CONTENT_KEY}`).
        former_keys: keys of before, which still open what was stored under them.
        retention: how long they are kept; then they are deleted.
        max_bytes: the most of one prompt or one answer; the rest is cut off, and it says so.
        max_store_bytes: the most of all; over it the oldest are deleted.
    """

    keep: Keep = Keep.NONE
    key: Annotated[SecretStr, AfterValidator(_key)] | None = None
    former_keys: tuple[Annotated[SecretStr, AfterValidator(_key)], ...] = ()
    retention: Duration = DEFAULT_CONTENT_RETENTION
    max_bytes: Annotated[Size, Field(le=100_000_000)] = DEFAULT_CONTENT_BYTES
    max_store_bytes: Size = DEFAULT_CONTENT_STORE_BYTES

    @model_validator(mode="after")
    def _has_its_key(self) -> "Content":
        if self.keep is Keep.ENCRYPTED and self.key is None:
            raise ValueError(
                "`keep: encrypted` needs a `key`: run `faregate content key`, put what it prints into the environment, "
                "and write `key: ${FAREGATE_CONTENT_KEY}`"
            )
        if self.keep is not Keep.ENCRYPTED and (self.key is not None or self.former_keys):
            raise ValueError("`key` and `former_keys` have no effect without `keep: encrypted`; delete them")
        return self

    @property
    def is_kept(self) -> bool:
        """Tell whether anything is stored."""
        return self.keep is not Keep.NONE


def as_content(value: JsonValue) -> JsonValue:
    """Read the short form."""
    return {"keep": value} if isinstance(value, str) else value
