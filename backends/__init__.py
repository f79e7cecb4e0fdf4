"""The floor: the shared words, and everything that runs a model, embeddings included.

Rooms:
    words, clock, errors   what every package speaks in
    asks, replies, sse     reading and writing the OpenAI protocol, pure
    restream, codings      a whole answer as a stream; bodies that were compressed unasked
    seam                   `Backend` and `Reply`, the seam to whatever runs a model
    http, pool             one endpoint over HTTP; several of them behind failover
    transport              `Transport`, the seam to an HTTP client: bytes only
    wire, wire_connection  our own client, on httptools; aiohttp_transport: the one to fall back on
    blame, breaker, retries
                           whose fault a failure was, an endpoint's circuit breaker, the retry budget; pure
    usage                  what an upstream says it used, in whatever shape, as disjoint token classes
    searches               how many searches of the provider a request may be billed for; for holds
    prices, price_list     rates in integer femto-dollars, costs in integer nano-dollars; providers' lists, compiled
    energy                 what this machine's graphics cards have drawn, by their own meters (NVML)
    embedder               all-MiniLM-L6-v2 in int8, shipped in `minilm/`, built by `build_embedder`
    onnx_session           starting a neural network on onnxruntime
    fetch, llamacpp        model files, and a local server for them (the demo's and the tests')

Decided here, other than the design to start from:
- An answer that is not asked for as a stream is not asked upstream as one either: a body that was collected from events
  would lose the fields we do not know. The price: a hang-up's unseen tokens are estimated from the time they took.
- A prompt's cached tokens are one class whatever their modality: few providers tell cached sound from cached text, and
  where one does and prices them apart, the charge says `estimated`. Video is text, which every list prices it as.
- A price is that of the moment an attempt began, also of providers that go by its end (DeepSeek's hours): the hold was
  made with it, and covers what begins within a day.
- A streamed request that is answered with plain JSON gets that as a stream. Which of the two came is told by its first
  byte, since content types lie. HTML, nothing, an error object and JSON without an answer are upstream errors.
- A stream is complete with `[DONE]`, or with a `finish_reason` and a framing that ends; a closed connection is a cut.
- Usage of zeros is no usage: it is counted from the events, or estimated and marked so.
- An operator's key of 12 characters or more is blotted out of everything that an upstream says; shorter ones are
  placeholders ("EMPTY"), which honest answers may hold. A Retry-After that is neither seconds nor a date is dropped.
- Fields by which clients of other gateways choose upstreams and keys (`api_base`, `api_key`, …) are dropped unread.
- Top-level fields of a request are kept as raw bytes; only what the gateway changes is decoded and written again.
- Breakers are probed with clients' requests, one at a time and ever more rarely, not with health checks: a server whose
  `/health` is fine may still answer nothing, and providers have none. The price: now and then one request meets an
  endpoint that is still down, and is moved on.
- The retry budget is each pool's, and a rate limit or a missing model is remembered for each model of a pool.
"""
