"""Tables from outside (invoices, revenue, hours), read without guessing.

A number with a thousands separator or a decimal comma, a column nobody knows, an empty field that must not be: each is
an error that names the file, the line and what is allowed. Nothing is skipped in silence.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from backends.prices import NANO_PER_USD
from gateway.ledger.errors import StatementInvalid

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?([eE]-?\d+)?")
_COUNT: Final = re.compile(r"\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a table.

    Attributes:
        file: for messages.
        line: in the file, from 1; the header is a line too.
        fields: text by column, without blanks around it.
    """

    file: Path
    line: int
    fields: Mapping[str, str]

    def wrong(self, message: str) -> StatementInvalid:
        """Return an error about this line."""
        return StatementInvalid(f"{self.file}, line {self.line}: {message}")

    def amount(self, column: str) -> Decimal:
        """Return a column as an exact number.

        Raises:
            StatementInvalid: it is none, or written with separators.
        """
        text = self.fields.get(column, "")
        if _NUMBER.fullmatch(text) is None:
            hint = "write it without thousands separators and with a point, as in 1234.56" if "," in text else ""
            raise self.wrong(f'{column} is "{text}", which is no plain number; {hint or "give one such as 12.5"}')
        return Decimal(text)

    def nusd(self, column: str) -> int:
        """Return a column of dollars as nano-dollars, half rounded to even.

        Raises:
            StatementInvalid: as for `amount`.
        """
        return round(self.amount(column) * NANO_PER_USD)

    def count(self, column: str) -> int:
        """Return a column as a whole number, 0 where it is empty.

        Raises:
            StatementInvalid: it is none.
        """
        text = self.fields.get(column, "") or "0"
        if _COUNT.fullmatch(text) is None:
            raise self.wrong(f'{column} is "{text}"; give a whole number of 0 or more, without separators')
        return int(text)

    def day(self, column: str) -> date:
        """Return a column as a date.

        Raises:
            StatementInvalid: it is none.
        """
        text = self.fields.get(column, "")
        try:
            return date.fromisoformat(text[:10])
        except ValueError as error:
            raise self.wrong(f'{column} is "{text}"; give a date such as 2026-11-21') from error

    def moment(self, column: str) -> datetime:
        """Return a column as a moment in UTC; one without a zone is taken as UTC.

        Raises:
            StatementInvalid: it is none.
        """
        text = self.fields.get(column, "")
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise self.wrong(f'{column} is "{text}"; give a moment such as 2026-11-21T13:00:00+00:00') from error
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def read_csv(file: Path, *, required: Collection[str], optional: Collection[str] | None = ()) -> Iterator[Entry]:
    """Yield a CSV file's lines.

    Args:
        file: in UTF-8, with or without a byte order mark, its first line the columns.
        required: columns it must have.
        optional: columns it may have beside; None: any.

    Raises:
        StatementInvalid: it cannot be read, lacks a column, has one too many or twice, or a line of another length.
    """
    allowed = ", ".join((*required, *(optional or ())))
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            lines = csv.reader(text, strict=True)
            columns = [name.strip() for name in next(lines, [])]
            missing = [name for name in required if name not in columns]
            if missing:
                hint = "; separate columns by commas, and decimals by a point" if ";" in "".join(columns) else ""
                raise StatementInvalid(
                    f"{file} has no column {', '.join(missing)}; it has: {', '.join(columns) or 'nothing'}; "
                    f"the columns are: {allowed}{hint}"
                )
            unknown = [name for name in columns if name not in {*required, *(optional or ())}]
            if optional is not None and unknown:
                raise StatementInvalid(
                    f"{file} has the unknown column {', '.join(unknown)}; the columns are: {allowed}"
                )
            if len(set(columns)) < len(columns):
                raise StatementInvalid(f"{file} has a column twice: {', '.join(columns)}; name each once")
            for fields in lines:
                if not any(field.strip() for field in fields):
                    continue
                if len(fields) != len(columns):
                    raise StatementInvalid(
                        f"{file}, line {lines.line_num}: {len(fields)} fields where the header has {len(columns)}; "
                        "a comma inside a number or a name must stand in quotes"
                    )
                values = dict(zip(columns, (field.strip() for field in fields), strict=True))
                yield Entry(file=file, line=lines.line_num, fields=values)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StatementInvalid(f"cannot read {file}: {error}; give a CSV file in UTF-8") from error
