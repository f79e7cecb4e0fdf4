"""From a policy file to a `Policy`, or to the list of everything that is wrong with the file.

The only place that reads the process environment for the policy's `${NAME}`s; everything else is passed in.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from policies.checks import Draft, check_references, did_you_mean, unknown
from policies.document import Location, path_text, read_document
from policies.errors import Mistake, PolicyError
from policies.schema import BudgetRule, Model, Policy, Pool, Price, Prices, RevenueRule, Route, Tenant

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pydantic_core import ErrorDetails

    from backends.words import JsonValue
    from policies.document import Document

MAX_BYTES: Final = 1_000_000
"""A policy is written by people; what is larger is some other file."""

SHIPPED_CALIBRATIONS: Final = Path(__file__).parent.parent / "router" / "calibrations"
SHIPPED_ARTEFACTS: Final = Path(__file__).parent.parent / "router" / "artefacts"
SHIPPED_VERIFIERS: Final = Path(__file__).parent.parent / "semantic_cache" / "calibrations" / "verifiers"
"""Where the artefacts lie that a policy may name without a path. A folder, no import: policies stay below router."""

_ENVIRON: Final[Mapping[str, str]] = os.environ  # noqa: TID251  # the one place where policies meet the environment

_Part = TypeVar("_Part", bound=BaseModel)

# What pydantic says, in this project's words, for mistakes whose own text does not name the allowed values.
_SAID: Final[Mapping[str, str]] = {
    "string_type": "expected text; put quotes around a value that looks like a number",
    "model_type": "expected a mapping of keys to values",
    "dict_type": "expected a mapping of names to values",
    "mapping_type": "expected a mapping of names to values",
    "tuple_type": "expected a list",
    "frozen_set_type": "expected a list",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "decimal_type": "expected a number",
    "decimal_parsing": "expected a number",
    "too_short": "expected at least one entry",
    "path_type": "expected a path",
}
# A route with a mistake in one of these can still be checked for the names on its ladder.
_SPARED: Final = frozenset({"quality", "stream", "cache", "baseline", "max_output_tokens"})
_USER_IN_URL: Final = re.compile(r"//[^/]*@")
_NAMES_SAID: Final = "expected a name of letters, digits and . _ - / @ + that begins with a letter or a digit"


def load_policy(
    path: Path | str, environ: Mapping[str, str] = _ENVIRON, *, calibrations_folder: Path = SHIPPED_CALIBRATIONS
) -> Policy:
    """Return the policy a file holds.

    Args:
        path: the YAML file.
        environ: what `${NAME}` stands for.
        calibrations_folder: where a calibration without a path lies, as `NAME.json`.

    Raises:
        PolicyError: the file cannot be read or has mistakes; it lists all of them.
    """
    file = Path(path)
    return parse_policy(read_policy(file), file, environ, calibrations_folder=calibrations_folder)


def parse_policy(
    text: str, file: Path, environ: Mapping[str, str], *, calibrations_folder: Path = SHIPPED_CALIBRATIONS
) -> Policy:
    """Return the policy a text holds; `file` names it in mistakes and is where relative paths start.

    Raises:
        PolicyError: the text has mistakes; it lists all of them.
    """
    document = read_document(text, environ)
    if document.values is None:
        empty = [Mistake(1, 1, "", "the policy is empty; start from policies/default.yaml")]
        raise PolicyError(file, document.mistakes or empty)
    files = _Files(file.parent, calibrations_folder)
    policy, mistakes = _validated(document)
    for finding in check_references(_draft(document, policy), files):
        if not document.has_failed(finding.location):
            mistakes.append(document.mistake(finding.location, finding.message, at_key=finding.at_key))
    mistakes += document.mistakes
    if policy is None or mistakes:
        raise PolicyError(file, list(dict.fromkeys(mistakes)))
    names = {name for route in policy.routes if route.quality for name in route.quality.artefacts}
    verifiers = {s.verifier.calibration for route in policy.routes if (s := route.cache.semantic) and s.verifier}
    return policy.with_files(
        calibrations={name: files.calibration(name) for name in names},
        artefacts={name: files.artefact(name) for route in policy.routes if (name := route.artefact)},
        verifiers={name: files.verifier(name) for name in verifiers},
    )


def read_policy(file: Path) -> str:
    """Return the text of a policy file.

    Raises:
        PolicyError: it cannot be read, is too large or not UTF-8.
    """
    try:
        with file.open("rb") as source:
            content = source.read(MAX_BYTES + 1)
    except OSError as error:
        said = f"cannot be read ({error.strerror or error}); name a policy with --policy"
        raise PolicyError(file, [Mistake(0, 0, "", said)]) from error
    if len(content) > MAX_BYTES:
        raise PolicyError(file, [Mistake(0, 0, "", f"larger than {MAX_BYTES} bytes, which no policy is")])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise PolicyError(file, [Mistake(line, column, "", "not UTF-8; save the file as UTF-8")]) from error


@dataclass(frozen=True, slots=True)
class _Files:
    """Where what a policy names lies: a path starts at the policy's folder, a bare name is shipped."""

    policy_folder: Path
    calibrations: Path

    def calibration(self, name: str) -> Path:
        return self._lies(name, self.calibrations)

    def artefact(self, name: str) -> Path:
        return self._lies(name, SHIPPED_ARTEFACTS)

    def verifier(self, name: str) -> Path:
        return self._lies(name, SHIPPED_VERIFIERS)

    def _lies(self, name: str, shipped: Path) -> Path:
        if "/" in name or name.endswith(".json"):
            return (self.policy_folder / name).absolute()
        return shipped / f"{name}.json"


def _validated(document: Document) -> tuple[Policy | None, list[Mistake]]:
    try:
        return Policy.model_validate(document.values), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    said = (_mistake(detail, document) for detail in details)
    return None, [mistake for mistake in said if mistake is not None]


_NO_KEYS: Final = frozenset({"[key]", "[price]", "[prices]"})
"""What pydantic puts into locations that no file has."""


def _mistake(detail: ErrorDetails, document: Document) -> Mistake | None:
    """Return pydantic's finding in this project's words; None where it only follows from another mistake."""
    location: Location = tuple(part for part in detail["loc"] if part not in _NO_KEYS)
    is_key = "[key]" in detail["loc"]
    kind = detail["type"]
    if document.has_failed(location) or kind == "default_factory_not_called":
        return None
    if kind == "too_short" and detail["input"]:
        return None  # it has entries, and each has its own mistake
    if kind == "missing":
        message = f"`{location[-1]}` is missing"
        return document.mistake(location, message)
    if kind == "extra_forbidden":
        allowed = _keys_at(location[:-1])
        message = unknown("key", str(location[-1]), allowed, f"allowed in {path_text(location[:-1]) or 'a policy'}")
        return document.mistake(location, message, at_key=True)
    written = str(location[-1]) if is_key else _written(detail, document, location)
    got = f"; got {written}" if written else ""
    return document.mistake(location, f"{_problem(detail)}{got}{_hint(detail)}", at_key=is_key)


def _choices(detail: ErrorDetails) -> str:
    return str(detail.get("ctx", {}).get("expected", "")).replace("'", "")


def _hint(detail: ErrorDetails) -> str:
    if detail["type"] not in {"enum", "literal_error"}:
        return ""
    return did_you_mean(str(detail["input"]), _choices(detail).replace(" or ", ", ").split(", "))


def _problem(detail: ErrorDetails) -> str:
    match detail["type"]:
        case "enum" | "literal_error":
            return f"expected {_choices(detail)}"
        case "value_error":
            return str(detail.get("ctx", {}).get("error"))
        case "string_pattern_mismatch":
            return _NAMES_SAID
        case kind if kind in _SAID:
            return _SAID[kind]
        case _:
            return detail["msg"].replace("Input should be", "expected").replace("Input should", "expected to")


def _written(detail: ErrorDetails, document: Document, location: Location) -> str:
    """Return the value as the file has it: what a variable holds may be secret, and so may a literal key."""
    if location and location[-1] == "api_key":
        return "" if "$" not in document.sources.get(location, "") else document.sources[location]
    source = document.sources.get(location)
    if source is not None:
        return f'"{_USER_IN_URL.sub("//…@", source)}"'
    if not detail["input"]:
        return ""
    return "a mapping" if isinstance(detail["input"], dict) else "a list" if isinstance(detail["input"], list) else ""


def _keys_at(location: Location) -> tuple[str, ...]:
    """Return the keys the schema allows in the mapping at a location."""
    kind: JsonValue = Policy
    for part in location:
        kind = _inside(kind, part)
    return tuple(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else ()


def _inside(kind: JsonValue, part: str | int) -> JsonValue:
    """Return the type of an entry of a type: a field's, a mapping's values', a tuple's items'; `| None` dropped."""
    if kind is Price and isinstance(part, int):
        return Price  # one of several
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(str(part))
        inner: JsonValue = field.annotation if field is not None else None
    else:
        origin: JsonValue = get_origin(kind)
        arguments = get_args(kind)
        inner = arguments[0 if origin is tuple else -1] if arguments else None
    options = [option for option in get_args(inner) if option is not type(None)]
    kind = options[0] if type(None) in get_args(inner) else inner
    return Price if kind is Prices else kind


def _draft(document: Document, policy: Policy | None) -> Draft:
    """Return the parts that can be read one by one when the whole cannot."""
    broken = {location[:2] for location in document.failed}
    values = _mapping(document.values)
    models, pools = _mapping(values.get("models")), _mapping(values.get("pools"))
    tenants = _good(Tenant, "tenants", _numbered(values.get("tenants")), broken)
    routes = _good(Route, "routes", _numbered(values.get("routes")), broken)
    return Draft(
        model_names=tuple(models),
        pool_names=tuple(pools),
        models=_good(Model, "models", models, broken),
        pools=_good(Pool, "pools", pools, broken),
        routes=routes,
        tenants=dict(enumerate(policy.tenants)) if policy else tenants,
        revenue=_good(RevenueRule, "revenue", _numbered(values.get("revenue")), broken),
        budgets=_good(BudgetRule, "budgets", _numbered(values.get("budgets")), broken),
        has_all_routes=len(routes) == len(_numbered(values.get("routes"))),
        has_all_tenants=policy is not None or 0 < len(tenants) == len(_numbered(values.get("tenants"))),
        timeouts=policy.timeouts if policy else None,
        retries=policy.retries if policy else None,
        limits=policy.limits if policy else None,
        cache_store=policy.storage.cache if policy else None,
    )


_Place = TypeVar("_Place", str, int)


def _good(
    kind: type[_Part], section: str, raw: Mapping[_Place, JsonValue], broken: Collection[Location]
) -> dict[_Place, _Part]:
    """Return the entries of a section that can be read; what is wrong with the others is reported already."""
    parts: dict[_Place, _Part] = {}
    for place, value in raw.items():
        if (section, place) in broken:
            continue
        # An unknown key, reported already, must not hide that the entry names a model that is not there.
        known = {key: item for key, item in _mapping(value).items() if key in kind.model_fields}
        spared = {key: item for key, item in known.items() if key not in _SPARED}
        for candidate in (value, known, spared):
            with suppress(ValidationError):
                parts[place] = kind.model_validate(candidate)
                break
    return parts


def _mapping(value: JsonValue) -> dict[str, JsonValue]:
    return value if isinstance(value, dict) else {}


def _numbered(value: JsonValue) -> dict[int, JsonValue]:
    return dict(enumerate(value)) if isinstance(value, list) else {}
