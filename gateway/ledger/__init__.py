"""The ledger: what every request and every paid attempt cost, booked exactly once.

Rules:
- Money is integer nano-dollars everywhere; durations of rows are milliseconds; times are UTC.
- Journal first: `hold` is on disk before a paid call, `settle` or `release` after it, each one `write(2)`.
- One store a folder, kept by a lock. The folder holds `lock` (the gateway's), `store.lock` (who folds), `journal/`,
  `ledger.db`, `roots.jsonl` and `user.key`.
- The store only ever grows: it refuses UPDATE and DELETE on what was booked, and booking twice books once.
- Every booked row is an entry of its writer's hash chain (`chain`); all heads go under a root every day and at every
  orderly stop, in the store and in a file beside it (`roots`); `verify` holds all of it against each other.
- A killed gateway's open holds are closed as estimated charges, at their upper bound, when the folder is next opened.
- What comes later is a row of its own that names what it corrects (`bookings`); a sealed month never changes.

- Budgets are hard: committed + held + leased ≤ cap at every instant (`budgets`; rebuilt at start by `spent`; lent to
  several workers by `leases`).

The way of a row: `seam.Ledger` (what the pipeline calls) → `writer` (encodes, appends, keeps what a full disk refused)
→ `journal` (segments) → `service` (a thread, in this process or another) → `fold` → `store` (SQLite) → `report`.
`journaled` joins the two sides, and has the writer's side alone for a worker. A served gateway's service is a process
of its own: `store_process` is the gateway's side of it, `storing` the program, `store_line` what they tell one another.
Beside it: `rollups` and `derived` (daily sums, savings, busy time; kept by the store), `archive` (retention: files and
a tombstone; `archived` is what stays, `archive_walk` verifies the files, `put_back` reads them again), `reports` (any
question, on paper), `focus` (export), `invoices` and `reconcile` (a provider's file against
the rows), `dictionary` and `views` (the schema explained).

Decided here:
- Rows are chained where they are folded, not where they are appended: hashing costs the request nothing, and what is
  hashed is what the store holds, so that the store alone can be verified. What the journal lacks is told by the numbers
  of its records.
- Folding is beside the gateway and not in it, for one worker too: in a thread it took a fifth of the gateway's CPU and
  turns at its interpreter. The gateway never waits for it: a store process that died is started anew, the journal has
  all meanwhile. Budgets are rebuilt before the first request, when it has folded what there was.
- Slot 0 writes into `journal/` itself, further workers into `journal/<slot>/`: a single gateway's folder is as it was.
- Charges that come into a sealed month (a clock that went back) stay dated as they are, and post to the open month by a
  row `late` in `books`.
- Prompts are never stored here, nor answers: no row has a place for them, since no row can be deleted. Where a policy
  wants them (`ledger.content`), they are in a file of their own (`gateway.content`), redacted or encrypted. Caches keep
  answers for their TTL where a route asks for one (`cache.exact`, `cache.semantic`).
- Only requests older than every budget's window, of sealed months, are archived; those the books name stay. Journal
  files put back from a copy after that would be booked again: what was archived is no longer known by its id.

Left out on purpose:
- Hours as rollups (see `rollups`): by day of another zone than UTC, reports take the UTC days' sums and read the rows
  of the hours between the midnights (`reports.ragged`). Sessions, users and tasks are read from rows: seconds a million
  requests, not a second for all.
- Archived days in another zone: only their UTC days' sums are left, so each counts whole, where its noon lies.
- Meters of other machines' cards: NVML tells of its own machine; elsewhere joules are `watts` x busy time, `estimated`.
- Whether a replica was there: it is billed while a policy names it, unless the cloud's own hours say otherwise.
"""
