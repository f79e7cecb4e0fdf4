-- A ledger as Faregate 0.1.0 wrote it (version 1), for the test of its migration.
PRAGMA application_id = 1178686021;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
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
  input_tokens INTEGER NOT NULL CHECK (input_tokens >= 0),               -- uncached input; these five are disjoint
  cached_input_tokens INTEGER NOT NULL CHECK (cached_input_tokens >= 0), -- read from a prompt cache
  cache_write_tokens INTEGER NOT NULL CHECK (cache_write_tokens >= 0),   -- written to a prompt cache
  output_tokens INTEGER NOT NULL CHECK (output_tokens >= 0),             -- output but for reasoning
  reasoning_tokens INTEGER NOT NULL CHECK (reasoning_tokens >= 0),       -- reasoning
  input_provenance TEXT NOT NULL,    -- provider | counted | estimated | unknown: where the input counts come from
  output_provenance TEXT NOT NULL,   -- the same for output
  rates TEXT NOT NULL,               -- JSON: femto-dollars per token of each class, with their source
  price_digest TEXT NOT NULL,        -- sha256 of the price book
  cost_nusd INTEGER NOT NULL CHECK (cost_nusd >= 0),                     -- nano-dollars
  started_at_us INTEGER NOT NULL,    -- microseconds since 1970 UTC
  duration_ms REAL NOT NULL,         -- until the upstream was done with
  finish_reason TEXT,                -- the upstream's
  epoch INTEGER NOT NULL,            -- the writer's epoch that booked it
  PRIMARY KEY (request_id, attempt)
) STRICT;
INSERT INTO "charges" VALUES('req_1',0,'answer','support','web','default','small','cpu','cpu-0',100,10,0,20,0,'provider','provider','{"cached_input":500000000,"cache_write":500000000,"input":500000000,"output":2000000000,"per_request":0,"reasoning":2000000000,"source":"policy","tiers":[]}','book-1',95000,1762084800000001,250.0,'stop',1);
INSERT INTO "charges" VALUES('req_2',0,'answer','support','web','default','small','cpu','cpu-0',100,10,0,20,0,'provider','provider','{"cached_input":500000000,"cache_write":500000000,"input":500000000,"output":2000000000,"per_request":0,"reasoning":2000000000,"source":"policy","tiers":[]}','book-1',95000,1762084800000002,250.0,'stop',1);
CREATE TABLE counters (              -- single values
  name TEXT PRIMARY KEY,             -- torn: records cut off by crashes; swept: charges up to this rowid have a request
  value INTEGER NOT NULL             -- its value
) STRICT;
INSERT INTO "counters" VALUES('swept',2);
CREATE TABLE epoch_pools (           -- the pools an epoch kept up
  epoch INTEGER NOT NULL,            -- of epochs
  pool TEXT NOT NULL,                -- the pool
  usd_per_hour TEXT NOT NULL,        -- decimal dollars for one replica's hour
  replicas INTEGER NOT NULL,         -- how many
  PRIMARY KEY (epoch, pool)
) STRICT;
INSERT INTO "epoch_pools" VALUES(1,'cpu','0.36',1);
CREATE TABLE epochs (                -- one life of a writer under one policy
  epoch INTEGER PRIMARY KEY,         -- ascending
  writer TEXT NOT NULL,              -- the writer's persistent id
  started_at_us INTEGER NOT NULL,    -- microseconds since 1970 UTC
  last_seen_at_us INTEGER NOT NULL,  -- its last heartbeat
  policy_digest TEXT NOT NULL        -- of the policy in force
) STRICT;
INSERT INTO "epochs" VALUES(1,'00112233445566aa',1762084800000000,1762084860000000,'policy-1');
CREATE TABLE journal_offsets (       -- how far each journal segment has been folded
  epoch INTEGER NOT NULL,            -- the segment's epoch
  seq INTEGER NOT NULL,              -- and its number
  bytes_folded INTEGER NOT NULL,     -- everything before is in this store
  PRIMARY KEY (epoch, seq)
) STRICT;
CREATE TABLE open_holds (            -- attempts begun and not yet charged or released; the fold's working state
  request_id TEXT NOT NULL,          -- the request
  attempt INTEGER NOT NULL,          -- the attempt
  epoch INTEGER NOT NULL,            -- the epoch that holds it
  hold TEXT NOT NULL,                -- JSON of the hold
  PRIMARY KEY (request_id, attempt)
) STRICT;
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
  cost_nusd INTEGER NOT NULL CHECK (cost_nusd >= 0),                  -- sum of its charges when booked, nano-dollars
  baseline_model TEXT,               -- what would have answered without Faregate
  baseline_nusd INTEGER NOT NULL CHECK (baseline_nusd >= 0),          -- and what that would have cost, nano-dollars
  baseline_low_nusd INTEGER NOT NULL CHECK (baseline_low_nusd >= 0),  -- lower end for the unseen output's length
  baseline_high_nusd INTEGER NOT NULL CHECK (baseline_high_nusd >= 0),-- upper end
  tags TEXT NOT NULL,                -- JSON object of the client's tags
  session TEXT,                      -- the client's session
  epoch INTEGER NOT NULL             -- the writer's epoch that booked it
) STRICT;
INSERT INTO "requests" VALUES('req_1',NULL,'support','web','chat/completions','default','auto','small',200,NULL,0,0.93,NULL,NULL,NULL,'policy-1',1762084800000001,NULL,260.0,1.5,95000,'large',200000,150000,300000,'{"feature":"chat"}',NULL,1);
INSERT INTO "requests" VALUES('req_2',NULL,'support','web','chat/completions','default','auto','small',200,NULL,0,0.93,NULL,NULL,NULL,'policy-1',1762084800000002,NULL,260.0,1.5,95000,'large',200000,150000,300000,'{"feature":"chat"}',NULL,1);
CREATE TABLE writer (id TEXT NOT NULL) STRICT;
INSERT INTO "writer" VALUES('00112233445566aa');
CREATE INDEX requests_by_start ON requests (started_at_us);
CREATE INDEX charges_by_start ON charges (started_at_us);
CREATE TRIGGER requests_keep_update BEFORE UPDATE ON requests
  BEGIN SELECT RAISE(ABORT, 'requests are append-only: book a correction'); END;
CREATE TRIGGER requests_keep_delete BEFORE DELETE ON requests
  BEGIN SELECT RAISE(ABORT, 'requests are append-only: book a correction'); END;
CREATE TRIGGER charges_keep_update BEFORE UPDATE ON charges
  BEGIN SELECT RAISE(ABORT, 'charges are append-only: book a correction'); END;
CREATE TRIGGER charges_keep_delete BEFORE DELETE ON charges
  BEGIN SELECT RAISE(ABORT, 'charges are append-only: book a correction'); END;
CREATE TRIGGER requests_once BEFORE INSERT ON requests
  WHEN EXISTS (SELECT 1 FROM requests WHERE request_id = NEW.request_id)
  BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER charges_once BEFORE INSERT ON charges
  WHEN EXISTS (SELECT 1 FROM charges WHERE request_id = NEW.request_id AND attempt = NEW.attempt)
  BEGIN SELECT RAISE(IGNORE); END;
CREATE VIEW requests_readable AS
  SELECT strftime('%Y-%m-%dT%H:%M:%S', started_at_us / 1000000, 'unixepoch') || 'Z' AS started_at,
         printf('%d.%09d', cost_nusd / 1000000000, cost_nusd % 1000000000) AS cost_usd,
         printf('%d.%09d', baseline_nusd / 1000000000, baseline_nusd % 1000000000) AS baseline_usd, *
  FROM requests;
CREATE VIEW charges_readable AS
  SELECT strftime('%Y-%m-%dT%H:%M:%S', started_at_us / 1000000, 'unixepoch') || 'Z' AS started_at,
         printf('%d.%09d', cost_nusd / 1000000000, cost_nusd % 1000000000) AS cost_usd, *
  FROM charges;
COMMIT;
