"""The store's tables. The comments travel with them: `.schema` in sqlite3 is the data dictionary."""

from __future__ import annotations

from typing import Final

from gateway.ledger.archived import archives_schema, unless_archived
from gateway.ledger.rollups import ROLLUPS
from gateway.ledger.views import VIEWS

APPLICATION_ID: Final = 0x46415245  # "FARE": tells our file from any other SQLite file
VERSION: Final = 8

_BOOKS: Final = f"""
CREATE TABLE requests (              -- one row for every client request, whatever became of it; append-only
  id INTEGER PRIMARY KEY,            -- order of booking
  request_id TEXT NOT NULL UNIQUE,   -- minted by the gateway, unique for ever
  client_request_id TEXT,            -- the client's own x-request-id, if it sent one
  tenant TEXT NOT NULL,              -- who pays
  key_id TEXT NOT NULL,              -- which of the tenant's keys was used
  surface TEXT NOT NULL,             -- path under /v1/, such as chat/completions
  route TEXT,                        -- the policy rule it fell under; NULL when refused before
  model_asked TEXT NOT NULL,         -- the client's "model"
  path TEXT NOT NULL,                -- small | small>large | cache:exact | cache:semantic | '' when nothing was served
  status INTEGER NOT NULL,           -- HTTP status
  error_code TEXT,                   -- the error's code; 'crashed' when the gateway died before booking it
  is_stream INTEGER NOT NULL,        -- 1 when streamed
  confidence REAL,                   -- the judge's, in [0, 1]
  similarity REAL,                   -- of a semantic hit, in [-1, 1]
  task TEXT,                         -- what the classifier took it for
  plan_reason TEXT,                  -- why this plan
  policy_digest TEXT NOT NULL,       -- of the policy in force
  started_at_us INTEGER NOT NULL,    -- microseconds since 1970 UTC
  ttft_ms REAL,                      -- until the first token was sent
  total_ms REAL NOT NULL,            -- until the answer was complete
  overhead_ms REAL NOT NULL,         -- of it, the gateway's own
  cost_nusd INTEGER NOT NULL CHECK (cost_nusd >= 0),                  -- sum of its known charges when booked
  unknown_charges INTEGER NOT NULL CHECK (unknown_charges >= 0),      -- how many of its charges have no known cost
  baseline_model TEXT,               -- what would have answered without Faregate
  baseline_nusd INTEGER NOT NULL CHECK (baseline_nusd >= 0),          -- and what that would have cost, nano-dollars
  baseline_low_nusd INTEGER NOT NULL CHECK (baseline_low_nusd >= 0),  -- lower end for the unseen output's length
  baseline_high_nusd INTEGER NOT NULL CHECK (baseline_high_nusd >= 0),-- upper end
  tags TEXT NOT NULL,                -- JSON object of the client's tags
  session TEXT,                      -- the client's session
  task_id TEXT,                      -- the agent's task, as the client named it
  user_pseudonym TEXT,               -- the end user's, as end_users tells; nobody's once that row is gone
  decision TEXT,                     -- JSON: what the rungs were chosen and kept by; NULL where nothing was decided
  epoch INTEGER NOT NULL             -- the writer's epoch that booked it
) STRICT;
CREATE INDEX requests_by_start ON requests (started_at_us);

CREATE TABLE charges (               -- one row for every paid attempt; append-only
  id INTEGER PRIMARY KEY,            -- order of booking
  request_id TEXT NOT NULL,          -- the request it was made for
  attempt INTEGER NOT NULL,          -- from 0 within the request
  kind TEXT NOT NULL,                -- answer | rejected | cancelled | failed | estimated | audit | self_check | sample
  tenant TEXT NOT NULL,              -- who pays
  key_id TEXT NOT NULL,              -- with which key
  route TEXT NOT NULL,               -- the policy rule
  model TEXT NOT NULL,               -- the catalog's name
  pool TEXT,                         -- the pool that served it; NULL for a provider
  endpoint_label TEXT NOT NULL,      -- which replica or address
  input_tokens INTEGER NOT NULL CHECK (input_tokens >= 0),               -- uncached text; the ten classes are disjoint
  cached_input_tokens INTEGER NOT NULL CHECK (cached_input_tokens >= 0), -- read from a prompt cache
  cache_write_tokens INTEGER NOT NULL CHECK (cache_write_tokens >= 0),   -- written to a prompt cache for 5 minutes
  cache_write_1h_tokens INTEGER NOT NULL CHECK (cache_write_1h_tokens >= 0), -- written to a prompt cache for an hour
  audio_input_tokens INTEGER NOT NULL CHECK (audio_input_tokens >= 0),   -- sound that was read
  image_input_tokens INTEGER NOT NULL CHECK (image_input_tokens >= 0),   -- pictures that were read
  output_tokens INTEGER NOT NULL CHECK (output_tokens >= 0),             -- text, but for reasoning
  reasoning_tokens INTEGER NOT NULL CHECK (reasoning_tokens >= 0),       -- reasoning
  audio_output_tokens INTEGER NOT NULL CHECK (audio_output_tokens >= 0), -- sound that was made
  image_output_tokens INTEGER NOT NULL CHECK (image_output_tokens >= 0), -- pictures that were made
  web_searches INTEGER NOT NULL CHECK (web_searches >= 0),               -- searches billed beside the tokens
  input_provenance TEXT NOT NULL,    -- provider | counted | estimated | unknown: where the input counts come from
  output_provenance TEXT NOT NULL,   -- the same for output
  rates TEXT NOT NULL,               -- JSON: femto-dollars per token of each class, with their source
  price_digest TEXT NOT NULL,        -- sha256 of the price book
  tier TEXT NOT NULL,                -- of the price: batch, flex, priority; '' is the standard one
  cost_nusd INTEGER CHECK (cost_nusd >= 0),                              -- nano-dollars; NULL is unknown, never 0
  cost_provenance TEXT NOT NULL,     -- priced | provider | estimated | unknown
  stated_cost_nusd INTEGER,          -- what the provider itself said it cost, nano-dollars; NULL when it did not say
  started_at_us INTEGER NOT NULL,    -- microseconds since 1970 UTC
  duration_ms REAL NOT NULL,         -- until the upstream was done with
  finish_reason TEXT,                -- the upstream's
  upstream_response_id TEXT,         -- the upstream's id of its answer
  epoch INTEGER NOT NULL,            -- the writer's epoch that booked it
  CHECK ((cost_provenance = 'unknown') = (cost_nusd IS NULL)),
  UNIQUE (request_id, attempt)
) STRICT;
CREATE INDEX charges_by_start ON charges (started_at_us);

CREATE TABLE epochs (                -- one life of a writer under one policy
  epoch INTEGER PRIMARY KEY,         -- ascending
  writer TEXT NOT NULL,              -- the writer's persistent id
  started_at_us INTEGER NOT NULL,    -- microseconds since 1970 UTC
  last_seen_at_us INTEGER NOT NULL,  -- its last heartbeat
  policy_digest TEXT NOT NULL        -- of the policy in force
) STRICT;
CREATE TABLE epoch_pools (           -- the pools an epoch kept up
  epoch INTEGER NOT NULL,            -- of epochs
  pool TEXT NOT NULL,                -- the pool
  usd_per_hour TEXT NOT NULL,        -- decimal dollars for one replica's hour
  replicas INTEGER NOT NULL,         -- how many
  PRIMARY KEY (epoch, pool)
) STRICT;
CREATE TABLE epoch_replicas (        -- the replicas of these pools, each at its own price
  epoch INTEGER NOT NULL,            -- of epochs
  pool TEXT NOT NULL,                -- the pool
  endpoint TEXT NOT NULL,            -- the replica, as charges name it
  usd_per_hour TEXT NOT NULL,        -- decimal dollars for its hour
  is_spot INTEGER NOT NULL,          -- 1 where the cloud may take it back
  watts INTEGER,                     -- what it draws while it works; NULL where the policy does not say
  PRIMARY KEY (epoch, pool, endpoint)
) STRICT;
CREATE TABLE energy (                -- what the replicas' cards drew, by their own meters
  pool TEXT NOT NULL,                -- the pool
  endpoint TEXT NOT NULL,            -- the replica
  start_us INTEGER NOT NULL,         -- microseconds since 1970 UTC: one look at the meters
  end_us INTEGER NOT NULL,           -- and the next
  millijoules INTEGER NOT NULL CHECK (millijoules >= 0),              -- between them, of all its cards
  PRIMARY KEY (pool, endpoint, start_us)
) STRICT;
CREATE TABLE open_holds (            -- attempts begun and not yet charged or released; the fold's working state
  request_id TEXT NOT NULL,          -- the request
  attempt INTEGER NOT NULL,          -- the attempt
  epoch INTEGER NOT NULL,            -- the epoch that holds it
  slot INTEGER NOT NULL,             -- the writer that holds it
  hold TEXT NOT NULL,                -- JSON of the hold
  PRIMARY KEY (request_id, attempt)
) STRICT;
CREATE TABLE journal_offsets (       -- how far each journal segment has been folded
  epoch INTEGER NOT NULL,            -- the segment's epoch
  seq INTEGER NOT NULL,              -- and its number
  bytes_folded INTEGER NOT NULL,     -- everything before is in this store
  slot INTEGER NOT NULL,             -- the segment's writer
  PRIMARY KEY (epoch, seq)
) STRICT;
CREATE TABLE counters (              -- single values
  name TEXT PRIMARY KEY,             -- torn (records cut off by crashes), swept (charges up to it have a request), life
  value INTEGER NOT NULL             -- its value; of life: the first epoch of the owner's present or last life
) STRICT;
CREATE TABLE writer (                -- one row
  id TEXT NOT NULL                   -- this folder's persistent id, the first part of its writers' ids
) STRICT;

CREATE TABLE writers (               -- the heads of the chains, and how far each journal was read
  slot INTEGER PRIMARY KEY,          -- 0, 1, …: gateway workers; -1: the books
  seq INTEGER NOT NULL,              -- its last chain entry
  hash BLOB NOT NULL,                -- and that entry's hash, 32 bytes
  epoch INTEGER NOT NULL,            -- the epoch of the last journal record that was folded
  last_n INTEGER NOT NULL            -- and that record's number in the epoch
) STRICT;
CREATE TABLE chain (                 -- one entry for every booked row; append-only; see gateway/ledger/chain.py
  entry INTEGER PRIMARY KEY,         -- order of booking, over all writers
  slot INTEGER NOT NULL,             -- the writer
  seq INTEGER NOT NULL,              -- counts the writer's entries from 1, without gaps
  what TEXT NOT NULL,                -- the row's table: requests | charges | books
  row_id INTEGER NOT NULL,           -- and its id there
  hash BLOB NOT NULL                 -- blake2b-256 of the writer's entry before and this row
) STRICT;
CREATE TABLE roots (                 -- all heads, once a day and at every orderly stop; the roots file has them too
  n INTEGER PRIMARY KEY,             -- counts from 1
  line TEXT NOT NULL                 -- JSON, as in the file
) STRICT;
CREATE TABLE books (                 -- what is booked after the fact, by people or by the store itself; append-only
  id INTEGER PRIMARY KEY,            -- order of booking
  kind TEXT NOT NULL,                -- correction | adjustment | late | close | tombstone | forgotten
  period TEXT NOT NULL,              -- the month it posts to, such as 2026-12; of close: the month that is sealed
  request_id TEXT,                   -- the charge it corrects, or that came late
  attempt INTEGER,                   -- and its attempt
  tenant TEXT,                       -- who pays
  model TEXT,                        -- the catalog's name
  amount_nusd INTEGER NOT NULL,      -- what it adds to the period's bill, nano-dollars; negative takes off
  about TEXT NOT NULL,               -- JSON of further facts, such as a sealed month's sums
  reason TEXT NOT NULL,              -- why, in words
  made_by TEXT NOT NULL,             -- who
  made_at_us INTEGER NOT NULL        -- microseconds since 1970 UTC
) STRICT;
CREATE TABLE end_users (             -- which pseudonym is whose; a row may be deleted: that forgets the user
  known_as TEXT PRIMARY KEY,         -- keyed digest of tenant and user; the key is the folder's user.key
  salt BLOB NOT NULL,                -- random
  user_pseudonym TEXT NOT NULL       -- of requests: digest of known_as under the salt
) STRICT;

CREATE TRIGGER requests_keep_update BEFORE UPDATE ON requests
  BEGIN SELECT RAISE(ABORT, 'requests are append-only: book a correction'); END;
CREATE TRIGGER requests_keep_delete BEFORE DELETE ON requests
  WHEN {unless_archived("requests")}
  BEGIN SELECT RAISE(ABORT, 'requests are append-only: book a correction'); END;
CREATE TRIGGER charges_keep_update BEFORE UPDATE ON charges
  BEGIN SELECT RAISE(ABORT, 'charges are append-only: book a correction'); END;
CREATE TRIGGER charges_keep_delete BEFORE DELETE ON charges
  WHEN {unless_archived("charges")}
  BEGIN SELECT RAISE(ABORT, 'charges are append-only: book a correction'); END;
CREATE TRIGGER chain_keep_update BEFORE UPDATE ON chain
  BEGIN SELECT RAISE(ABORT, 'chain is append-only'); END;
CREATE TRIGGER chain_keep_delete BEFORE DELETE ON chain
  WHEN {unless_archived("chain")}
  BEGIN SELECT RAISE(ABORT, 'chain is append-only'); END;
CREATE TRIGGER books_keep_update BEFORE UPDATE ON books
  BEGIN SELECT RAISE(ABORT, 'books is append-only'); END;
CREATE TRIGGER books_keep_delete BEFORE DELETE ON books
  BEGIN SELECT RAISE(ABORT, 'books is append-only'); END;
CREATE TRIGGER roots_keep_update BEFORE UPDATE ON roots
  BEGIN SELECT RAISE(ABORT, 'roots is append-only'); END;
CREATE TRIGGER roots_keep_delete BEFORE DELETE ON roots
  BEGIN SELECT RAISE(ABORT, 'roots is append-only'); END;
-- INSERT OR REPLACE deletes without the triggers above; a row that is there stays, whoever inserts it again.
CREATE TRIGGER requests_once BEFORE INSERT ON requests
  WHEN EXISTS (SELECT 1 FROM requests WHERE request_id = NEW.request_id OR id = NEW.id)
  BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER charges_once BEFORE INSERT ON charges
  WHEN EXISTS (SELECT 1 FROM charges WHERE request_id = NEW.request_id AND attempt = NEW.attempt OR id = NEW.id)
  BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER chain_once BEFORE INSERT ON chain WHEN EXISTS (SELECT 1 FROM chain WHERE entry = NEW.entry)
  BEGIN SELECT RAISE(ABORT, 'chain is append-only'); END;
CREATE TRIGGER books_once BEFORE INSERT ON books WHEN EXISTS (SELECT 1 FROM books WHERE id = NEW.id)
  BEGIN SELECT RAISE(ABORT, 'books is append-only'); END;
CREATE TRIGGER roots_once BEFORE INSERT ON roots WHEN EXISTS (SELECT 1 FROM roots WHERE n = NEW.n)
  BEGIN SELECT RAISE(ABORT, 'roots is append-only'); END;

-- For people: requests with readable times and exact dollars.
CREATE VIEW requests_readable AS
  SELECT strftime('%Y-%m-%dT%H:%M:%S', started_at_us / 1000000, 'unixepoch') || 'Z' AS started_at,
         printf('%d.%09d', cost_nusd / 1000000000, cost_nusd % 1000000000) AS cost_usd,
         printf('%d.%09d', baseline_nusd / 1000000000, baseline_nusd % 1000000000) AS baseline_usd, *
  FROM requests;
-- For people: charges with readable times and exact dollars; cost_usd is NULL while nobody knows.
CREATE VIEW charges_readable AS
  SELECT strftime('%Y-%m-%dT%H:%M:%S', started_at_us / 1000000, 'unixepoch') || 'Z' AS started_at,
         CASE WHEN cost_nusd IS NOT NULL
           THEN printf('%d.%09d', cost_nusd / 1000000000, cost_nusd % 1000000000) END AS cost_usd, *
  FROM charges;
-- What each charge costs by what is known today; corrected_nusd is NULL while nobody knows.
CREATE VIEW charges_corrected AS
  SELECT CASE WHEN corrections.request_id IS NULL THEN cost_nusd
              ELSE COALESCE(cost_nusd, 0) + corrections.amount_nusd END AS corrected_nusd, charges.*
  FROM charges LEFT JOIN (
    SELECT request_id, attempt, SUM(amount_nusd) AS amount_nusd FROM books WHERE kind = 'correction'
    GROUP BY request_id, attempt
  ) AS corrections USING (request_id, attempt);
-- Each month's bill: its charges, but for those that came after it was sealed, and what the books post to it.
CREATE VIEW period_sums AS
  SELECT period, SUM(charges_nusd) AS charges_nusd, SUM(books_nusd) AS books_nusd,
         SUM(charges_nusd + books_nusd) AS total_nusd, SUM(unknown_charges) AS unknown_charges,
         MAX(is_sealed) AS is_sealed
  FROM (
    SELECT strftime('%Y-%m', started_at_us / 1000000, 'unixepoch') AS period, COALESCE(cost_nusd, 0) AS charges_nusd,
           0 AS books_nusd, cost_nusd IS NULL AS unknown_charges, 0 AS is_sealed
    FROM charges
    WHERE (request_id, attempt) NOT IN (SELECT request_id, attempt FROM books WHERE kind = 'late')
    UNION ALL
    SELECT period, cost_nusd, 0, unknown_charges, 0 FROM archived_months
    UNION ALL
    SELECT period, 0, amount_nusd, 0, kind = 'close' FROM books WHERE kind NOT IN ('tombstone', 'forgotten')
  ) GROUP BY period;
"""  # noqa: S608 - the schema itself

SCHEMA: Final = _BOOKS + ROLLUPS + archives_schema(ROLLUPS) + VIEWS

NEW_WRITER: Final = "INSERT INTO writer VALUES (lower(hex(randomblob(8))));"
"""Run once, when a store is made."""
