"""Several processes answer for one gateway: a supervisor, and the workers it starts and keeps alive.

Who does what:
- the supervisor (`supervisor`) opens the storage folder, has a process fold every worker's journal into the store (as
  a gateway of one process does: `ledger.store_process`), is the budgets' authority and lends from it over a Unix socket
  in the folder (`budgets.sock`, 0600), keeps the one set of rate limits, and holds the listening socket; it reads no
  request;
- a worker (`member`) is the whole way of a request with a journal slot of its own; each is a fresh process;
- `line` is what they tell one another over a socket pair that is the worker's standard input: nobody else can reach
  it, and a worker whose supervisor is gone sees its end and stops at once, since nothing folds what it would book;
- `desk` says which worker buys what several are asked at once;
- `figures` adds up what each worker counts, for whichever of them is asked for `/metrics`.

Decided here:
- All workers accept from one inherited socket. SO_REUSEPORT would spread connections a little more evenly, but a worker
  that dies takes the connections in its own queue with it, and a second gateway could take the same port unnoticed.
- Rate limits are asked of the supervisor, for tenants that have some: dividing a minute's allowance would refuse
  requests while another worker's part lies unused. It costs a request one question and one answer over the socket pair.
- A worker that dies is started anew: at once the first time, later after up to ten seconds. Before that its journal is
  folded, its open holds are closed as estimated, and its leases are taken back. Meanwhile the gateway is unready.
- Where a worker lost its line to the budgets without dying, and dies later, what it spent before is counted twice until
  the window ends: too strict for a while, never too lax.
- A changed policy is read and checked by the supervisor alone; the workers get its text, and whoever cannot take it is
  started anew with it. For that moment some answer by the former policy and some by the new one.
- Equal requests in flight are one attempt in all workers (`gateway.leads`): the supervisor says who buys (`desk`), and
  the others find the answer in the caches' file, which is shared. Only requests of the same worker share a stream live.
- Each worker has breakers of its own, but a fault is learned once: a breaker that opens is told to the others, whose
  own then rest, too (each sends a probe of its own, and closes by itself). Of retries a worker may make the policy's
  share of its own requests, which is that share of all, and its part of `min_per_s`.
"""
