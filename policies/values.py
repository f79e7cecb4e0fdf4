"""Values and parts from which the policy's schema is made: names, durations, sizes, addresses, amounts.

Money is `Decimal` dollars, durations are `timedelta`, sizes are bytes, moments are UTC.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches
from types import MappingProxyType
from typing import Annotated, ClassVar, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)

from backends.words import JsonValue, ModelId, TenantId
from policies.windows import UnknownTimeZone, zone_names, zone_of

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._/@+-]{0,127}$"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")
_SECONDS: Final[Mapping[str, Decimal]] = MappingProxyType(
    {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|KiB|MiB|GiB)?")
_BYTES: Final[Mapping[str, int]] = MappingProxyType(
    {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
)


def _duration(value: JsonValue) -> JsonValue:
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None or not Decimal(match[1]):
        raise ValueError("expected a duration above 0 with its unit: 24h, 30m, 10s or 500ms")
    return timedelta(seconds=float(Decimal(match[1]) * _SECONDS[match[2]]))


def _size(value: JsonValue) -> JsonValue:
    match = _SIZE.fullmatch(str(value)) if isinstance(value, int | str) else None
    if match is None:
        raise ValueError("expected a size such as 20MB, 512KiB or 1000000 (units: B, KB, MB, GB, KiB, MiB, GiB)")
    return int(Decimal(match[1]) * _BYTES[match[2] or "B"])


def _moment(value: JsonValue) -> JsonValue:
    if isinstance(value, datetime):
        return value
    try:
        moment = datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        moment = None
    if moment is not None and moment.tzinfo is None and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        moment = moment.replace(tzinfo=UTC)
    if moment is None or moment.tzinfo is None:
        raise ValueError(
            "expected a date such as 2026-11-01 (UTC), or a moment with its zone: 2026-11-01T08:00:00+01:00"
        )
    return moment.astimezone(UTC)


def _url(value: str) -> str:
    try:
        url = urlsplit(value)
        has_place = bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        url, has_place = urlsplit(""), False
    if url.scheme not in {"http", "https"} or not has_place or not value.isascii() or re.search(r"\s", value):
        raise ValueError("expected an address such as http://127.0.0.1:8000/v1 (http or https)")
    if url.username is not None or url.query or url.fragment:
        raise ValueError("an address holds no user, password, query or fragment: put the secret in `api_key`")
    return value.rstrip("/")


def _cache_address(value: SecretStr) -> SecretStr:
    address = value.get_secret_value()
    try:
        url = urlsplit(address)
        is_good = (url.scheme in {"redis", "rediss"} and bool(url.hostname)) or (
            url.scheme == "unix" and bool(url.path)
        )
    except ValueError:
        is_good = False
    if address != "embedded" and not is_good:
        raise ValueError(
            "expected `embedded`, or an address such as redis://:${REDIS_PASSWORD}@host:6379/0 or unix:///path"
        )
    return value


def _vectors_address(value: str) -> str:
    return value if value == "embedded" else _url(value)


def _header_safe(value: SecretStr) -> SecretStr:
    if re.fullmatch(r"[\x21-\x7e]+", value.get_secret_value()) is None:
        raise ValueError("expected a key of visible ASCII characters without blanks (it is sent in a header)")
    return value


def _zone(name: str) -> str:
    try:
        zone_of(name)
    except UnknownTimeZone:
        lowered = {known.lower(): known for known in sorted(zone_names())}
        parts = {known.lower().rpartition("/")[2]: known for known in sorted(zone_names())}
        wanted = name.lower().replace(" ", "_")
        near = [lowered[found] for found in get_close_matches(wanted, lowered, n=3, cutoff=0.7)]
        near += [parts[found] for found in get_close_matches(wanted.rpartition("/")[2], parts, n=2, cutoff=0.75)]
        meant = ", ".join(f'"{known}"' for known in dict.fromkeys(near))
        hint = f"; did you mean {meant}?" if meant else ""
        raise ValueError(
            f"no such time zone; expected an IANA name such as Europe/Berlin, America/New_York or UTC{hint}"
        ) from None
    return name


_Key = TypeVar("_Key", bound=str)
_Value = TypeVar("_Value")


def canonical(value: Mapping[str, JsonValue]) -> str:
    """Return JSON that is the same for the same content."""
    return json.dumps(dict(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def frozen(value: Mapping[_Key, _Value]) -> Mapping[_Key, _Value]:
    """Return a copy that cannot be changed."""
    return MappingProxyType(dict(value))


Name = Annotated[str, StringConstraints(pattern=_NAME)]
ModelName = Annotated[ModelId, StringConstraints(pattern=_NAME)]
TenantName = Annotated[TenantId, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Duration = Annotated[timedelta, BeforeValidator(_duration)]
Size = Annotated[int, BeforeValidator(_size), Field(gt=0)]
Url = Annotated[str, AfterValidator(_url)]
Secret = Annotated[SecretStr, AfterValidator(_header_safe)]
CacheAddress = Annotated[SecretStr, AfterValidator(_cache_address)]
VectorsAddress = Annotated[str, AfterValidator(_vectors_address)]
Usd = Annotated[Decimal, Field(ge=0, le=1_000_000)]
Moment = Annotated[datetime, BeforeValidator(_moment)]
BudgetUsd = Annotated[Decimal, Field(ge=0, le=1_000_000_000, decimal_places=9)]
OutputTokens = Annotated[int, Field(ge=1, le=10_000_000)]
ZoneName = Annotated[str, AfterValidator(_zone)]
ScopeValue = Annotated[str, StringConstraints(min_length=1, max_length=256)]
TokensPerSecond = Annotated[Decimal, Field(gt=0, le=1_000_000_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Share = Annotated[float, Field(gt=0, lt=1)]
CalibrationName = Annotated[str, StringConstraints(min_length=1)]


class Part(BaseModel):
    """What every part of a policy is: frozen, closed to unknown keys, and deaf to keys without a value."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, value: JsonValue) -> JsonValue:
        if not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if item is not None or key not in cls.model_fields}
