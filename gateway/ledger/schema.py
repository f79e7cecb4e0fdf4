"""The store's tables. The comments travel with them: `.schema` in sqlite3 is the data dictionary."""

from __future__ import annotations

from typing import Final

APPLICATION_ID: Final = 0x46415245  # "FARE": tells our file from any other SQLite file
VERSION: Final = 2

SCHEMA: Final = """
CREATE TABLE requests (              -- one row for every client request, whatever became of it; append-only
  request_id TEXT PRIMARY KEY,       -- minted by the gateway, unique for ever
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
  user_pseudonym TEXT,               -- the end user's pseudonym
  epoch INTEGER NOT NULL             -- the writer's epoch that booked it
) STRICT;
CREATE INDEX requests_by_start ON requests (started_at_us);

CREATE TABLE charges (               -- one row for every paid attempt; append-only
  request_id TEXT NOT NULL,          -- the request it was made for
  attempt INTEGER NOT NULL,          -- from 0 within the request
  kind TEXT NOT NULL,                -- answer | rejected | cancelled | failed | estimated
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
  PRIMARY KEY (request_id, attempt)
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
CREATE TABLE open_holds (            -- attempts begun and not yet charged or released; the fold's working state
  request_id TEXT NOT NULL,          -- the request
  attempt INTEGER NOT NULL,          -- the attempt
  epoch INTEGER NOT NULL,            -- the epoch that holds it
  hold TEXT NOT NULL,                -- JSON of the hold
  PRIMARY KEY (request_id, attempt)
) STRICT;
CREATE TABLE journal_offsets (       -- how far each journal segment has been folded
  epoch INTEGER NOT NULL,            -- the segment's epoch
  seq INTEGER NOT NULL,              -- and its number
  bytes_folded INTEGER NOT NULL,     -- everything before is in this store
  PRIMARY KEY (epoch, seq)
) STRICT;
CREATE TABLE counters (              -- single values
  name TEXT PRIMARY KEY,             -- torn: records cut off by crashes; swept: charges up to this rowid have a request
  value INTEGER NOT NULL             -- its value
) STRICT;
CREATE TABLE writer (id TEXT NOT NULL) STRICT;  -- one row: this folder's persistent writer id

CREATE TRIGGER requests_keep_update BEFORE UPDATE ON requests
  BEGIN SELECT RAISE(ABORT, 'requests are append-only: book a correction'); END;
CREATE TRIGGER requests_keep_delete BEFORE DELETE ON requests
  BEGIN SELECT RAISE(ABORT, 'requests are append-only: book a correction'); END;
CREATE TRIGGER charges_keep_update BEFORE UPDATE ON charges
  BEGIN SELECT RAISE(ABORT, 'charges are append-only: book a correction'); END;
CREATE TRIGGER charges_keep_delete BEFORE DELETE ON charges
  BEGIN SELECT RAISE(ABORT, 'charges are append-only: book a correction'); END;
-- INSERT OR REPLACE deletes without the triggers above; a row that is there stays, whoever inserts it again.
CREATE TRIGGER requests_once BEFORE INSERT ON requests
  WHEN EXISTS (SELECT 1 FROM requests WHERE request_id = NEW.request_id)
  BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER charges_once BEFORE INSERT ON charges
  WHEN EXISTS (SELECT 1 FROM charges WHERE request_id = NEW.request_id AND attempt = NEW.attempt)
  BEGIN SELECT RAISE(IGNORE); END;

-- For people: the same rows with readable times and exact dollars.
CREATE VIEW requests_readable AS
  SELECT strftime('%Y-%m-%dT%H:%M:%S', started_at_us / 1000000, 'unixepoch') || 'Z' AS started_at,
         printf('%d.%09d', cost_nusd / 1000000000, cost_nusd % 1000000000) AS cost_usd,
         printf('%d.%09d', baseline_nusd / 1000000000, baseline_nusd % 1000000000) AS baseline_usd, *
  FROM requests;
CREATE VIEW charges_readable AS
  SELECT strftime('%Y-%m-%dT%H:%M:%S', started_at_us / 1000000, 'unixepoch') || 'Z' AS started_at,
         CASE WHEN cost_nusd IS NOT NULL
           THEN printf('%d.%09d', cost_nusd / 1000000000, cost_nusd % 1000000000) END AS cost_usd, *
  FROM charges;
"""

NEW_WRITER: Final = "INSERT INTO writer VALUES (lower(hex(randomblob(8))));"
"""Run once, when a store is made."""
