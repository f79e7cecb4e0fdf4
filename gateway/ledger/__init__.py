"""The ledger: what every request and every paid attempt cost, booked exactly once.

Rules:
- Money is integer nano-dollars everywhere; durations of rows are milliseconds; times are UTC.
- Journal first: `hold` is on disk before a paid call, `settle` or `release` after it, each one `write(2)`.
- One gateway a folder, kept by a lock. The folder holds `lock`, `journal/` and `ledger.db`.
- The store only ever grows: it refuses UPDATE and DELETE on requests and charges, and booking twice books once.
- A killed gateway's open holds are closed as estimated charges, at their upper bound, when the folder is next opened.

The way of a row: `seam.Ledger` (what the pipeline calls) → `journaled` (encodes, appends, keeps what a full disk
refused) → `journal` (segments) → `fold` (a thread) → `store` (SQLite) → `report` (read-only).
"""
