"""What can go wrong with the ledger.

LedgerError
├── LedgerUnavailable             money cannot be booked now; nothing may be bought
├── FolderInUse                   another gateway owns the folder
├── FolderUnusable                the folder cannot be created, read or written
├── SchemaMismatch                the store is of another version, or no store at all
├── JournalCorrupt                a journal record inside a segment cannot be read
├── RowInvalid (also ValueError)  a row that cannot be true
├── RootsUnreadable               the file of daily roots cannot be read
├── BookingRefused (also ValueError) a correction, adjustment or closing that cannot be
├── ArchiveUnusable               an archive's file cannot be written, or is not what its tombstone names
├── LedgerMissing                 a report was asked of a folder without a ledger
├── PeriodInvalid (also ValueError)  a report was asked for a period that is none
├── QuestionInvalid (also ValueError)  a report was asked by what the ledger does not know
├── StatementInvalid (also ValueError)  an invoice, a revenue or an hours file that cannot be read without guessing
└── ExportImpossible              a format needs a package that is not installed, or a file cannot be written
"""

from __future__ import annotations


class LedgerError(Exception):
    """Something about the ledger is wrong; the message says what and how to fix it."""


class LedgerUnavailable(LedgerError):
    """Money cannot be booked at present, so no attempt may be paid for. `pending` settlements wait in memory."""

    def __init__(self, message: str, *, pending: int = 0) -> None:
        super().__init__(message)
        self.pending = pending


class FolderInUse(LedgerError):
    """Another gateway owns the folder; `pid` is its process, None when it could not be read."""

    def __init__(self, message: str, *, pid: int | None) -> None:
        super().__init__(message)
        self.pid = pid


class FolderUnusable(LedgerError):
    """The folder cannot be created, read or written."""


class SchemaMismatch(LedgerError):
    """The store was written by another version of Faregate, or is not a ledger."""


class JournalCorrupt(LedgerError):
    """A record with others after it cannot be read: not a torn end, but damage."""


class RootsUnreadable(LedgerError):
    """The file of daily roots cannot be read."""


class BookingRefused(LedgerError, ValueError):
    """What is to be booked after the fact cannot be: no such charge, a sealed month, a month that is not over."""


class RowInvalid(LedgerError, ValueError):
    """A row that cannot be true: negative money, a time without a zone."""


class ArchiveUnusable(LedgerError):
    """An archive's file cannot be written or read, or is not what its tombstone names."""


class LedgerMissing(LedgerError):
    """There is no ledger in the folder."""


class PeriodInvalid(LedgerError, ValueError):
    """A period that ends before it begins, or whose ends have no time zone."""


class QuestionInvalid(LedgerError, ValueError):
    """A dimension, a time zone or a combination that the ledger does not have."""


class StatementInvalid(LedgerError, ValueError):
    """A file from outside (an invoice, revenue, hours) whose columns, currency, numbers or dates are not as agreed."""


class ExportImpossible(LedgerError):
    """An export cannot be written: a package is missing, or the place cannot be written to."""
