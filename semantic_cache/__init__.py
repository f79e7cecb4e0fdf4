"""Has this been answered: keys and partitions, the exact tier, the semantic tier, replay.

Rooms:
    seam                   the words (`Hit`, `Miss`, `Bypass`, `Entry`) and the seam `Store`
    partition              which requests are the same, and which may be compared
    tiers                  asking a store, exactly and semantically
    guard, lexicon         deterministic objections: numbers, dates, negation, entities, order, format
    acceptance             the calibrated score and the threshold that keeps `max_error`
    refusals               answers that decline to answer, which a route may keep out
    sqlite_store           the embedded store
    scaled_store           the store of several gateways: answers in `redis_store`, vectors in `qdrant_index`
    reach                  deadline and rest for a store behind a network
    replay                 a stored answer as JSON or as a stream
    verifier               the question to a model of the catalog, and the score read from its reply (not asked yet)
    evaluate, evaluate_report  how well acceptance does on labelled pairs (offline)
    train_acceptance       fits the acceptance from labelled pairs (scikit-learn; never when serving)
    calibrations/          the shipped artefact

Decided here, other than the design to start from: vectors are a numpy matrix per partition, read from SQLite when the
partition is first asked; a vector index comes when partitions outgrow it (1.3 ms at 10,000
vectors on a 2-core machine without AVX-512).
Over its limits a store drops what has expired, then the oldest: age is what a TTL speaks of, and what is often read is
not for that reason still right. A model's upgrade invalidates by construction, since the upstream's name of every model
of the ladder and the whole system prompt are in the key.
"""
