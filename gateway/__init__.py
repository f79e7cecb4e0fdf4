"""HTTP in, the order of the steps, settlement, telemetry, commands: the one package that acts.

Rooms, in the order a request meets them:
    connection             the front door: `/v1` data paths below ASGI; `side` serves the rest on FastAPI
    heads, repeats         what came before in the same bytes: heads that need no parsing, requests that were hits
    cors                   what web pages of other origins may read
    calls, errors          a request free of ASGI; every error's HTTP form, in one table
    pipeline               the way up to the first event: `Gateway.answer(call, sink)`
    caching, worker        the caches on that way, and the one thread that embeds
    limits, spending       rate limits; which budgets' pots a request draws from, and what happens at a cap
    flights                single-flight: equal requests in flight share one attempt
    leads                  the same among processes: one buys the answer, the others find it in the cache
    ladder                 opens rungs and asks the judge; nothing has been sent while it runs
    prober, asides         asks a rung's model again about its answer; calls beside an answer, paid for like any
    relay                  the way after the first event
    settlement, ledger/    holds, charges, request rows; the journal and the store under them
    audit, agreement       asks the baseline afterwards how good some answers were; `verdicts` keeps what it says
    verifying, measuring   asks a model about pairs the semantic cache's score leaves open; the same of labelled pairs
    promises, recalibrate  how promises stand by those verdicts, and a threshold that keeps them
    content/               prompts and answers, where a policy wants them stored
    energy                 what the pools' cards draw, booked now and then
    routers                what becomes of routes' trained artefacts: metrics, readiness, log
    journey                the record of one request that all of these write
    telemetry, log         metrics, spans, events
    stores, side_cache     which store a policy names, opened; the caches' admin pages
    prepare, compose       from a policy to lanes and rates; opening and closing everything
    upstreams              the transports and pools of a process
    reload, source         another policy while the gateway runs; `outcome` tells what became of it
    workers/, children     several processes for one gateway: a supervisor and its workers; starting processes
    serve, cli, check, keys_command, calibrate, demo/
                           the commands

Decided here, other than the design to start from:
- Settlement is synchronous (a journal append is one `write(2)`), so a `finally` cannot be cancelled inside it: that is
  the shield, without a shielded task.
- All files of a gateway are in one folder (`storage.folder`): lock, journal, ledger, cache, keys. Keys are not in the
  policy: a policy is often mounted read-only, and revoking must not need a reload.
- `x-faregate-explain: true` puts the reasons in a response header, which streams and errors have as well.
- Under a budget a plan's rungs are all held before the first is opened, and the policy's `max_output_tokens` is always
  sent where the client set no cap; without a budget it is only assumed for the hold.
- Verdicts have a file of their own (`verdicts.db`), since they are no money and several workers write them; an audit's
  cost is in the ledger, as charges of the audited request that are booked after its row. A recalibrated threshold is an
  event there as well, and no new calibration file: that is one atomic write, which every worker takes over.
- A semantic cache's promise is each tenant's own, or a namespace's. Verdicts on served answers can raise a threshold
  and never lower it, since there are none of answers that were not kept; trials of a breached route's first rung can.
- Each kind of request (single questions, conversations, questions with tools) is watched by verdicts of its own. One
  that a calibration has not seen is tried in the background, and kept below the baseline once its verdicts certify it
  at the threshold in force; one whose verdicts break the promise goes to the baseline alone.
- A judge that asks a model again does so after the answer: asking beside it would save time and pay for every answer
  that is refused by its form alone. Ladders with several judged rungs have no trials.
- A reload (SIGHUP, `faregate reload`) makes a second gateway on the same connections, books and counts, which answers
  what begins; the first one ends what it has begun. Address, workers, storage and the ledger's terms are for life.
- Budgets and rate limits hold for all workers of a gateway together.
- The confidence header is the judge's word on the last answer it saw: of `small>large` it is the rejected one's.
- "An equivalent model of the ladder" is one that a model names in its `equivalents`: rungs differ in quality, so none
  stands in for another unasked. Judged rungs have none (a judge knows one model); stand-ins' answers are not cached.
- The data paths are answered below ASGI, in a subclass of uvicorn's protocol, although that gains 1.05 x and not the
  1.3 x it was to be held to: ASGI cannot abort a connection, speak to a client that does not read, or say
  that a request is whole before a task exists; the front's tests fail in 34 places without it.
"""
