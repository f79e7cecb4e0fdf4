"""Has this been answered: keys and partitions, the exact tier, the semantic tier, replay.

Rooms:
    seam                   the words (`Hit`, `Miss`, `Bypass`, `Entry`) and the seam `Store`
    partition              which requests are the same, and which may be compared
    tiers                  asking a store, exactly and semantically
    guard, lexicon         deterministic objections: numbers, dates, negation, entities, order, format
    cross_encoder          a small network that reads two questions together
    acceptance             the calibrated score and the threshold that keeps `max_error`
    refusals               answers that decline to answer, which a route may keep out
    sqlite_store           the embedded store
    shelf                  a partition's vectors in memory, in cells of alike ones
    recent                 entries that were read last, in memory, as long as the store has not changed
    scaled_store           the store of several gateways: answers in `redis_store`, vectors in `qdrant_index`
    reach                  deadline and rest for a store behind a network
    gather                 a stream's events as the whole answer, where that is clear
    replay                 a stored answer as JSON or as a stream
    verifier               the question to a model of the catalog, the score read from its reply, and how far it goes
    evaluate, evaluate_report  how well acceptance does on labelled pairs (offline)
    train_acceptance, train_verifier
                           fit the acceptance and calibrate a verifier from labelled pairs (scikit-learn; never serving)
    train_pairs, train_network, train_cross_encoder
                           train the cross-encoder (torch; never serving) on the groups of questions in `questions/`
    calibrations/          the shipped artefacts

Decided here, other than the design to start from: vectors of the embedded store are int8 in cells (`shelf`), found by
numpy, and not in Qdrant Edge 0.9. Both find what is near in a partition of 100,000 (figures: load_tests/README.md). But
Qdrant Edge builds its graph with the interpreter's lock held (4 s of processor time for 10,000 vectors, 75 s for
100,000), and no event loop of the process moves meanwhile; until it is built, it reads all vectors; and one process
alone may open its folder, so that workers could not share it. Cells are split as they grow, within milliseconds.
Over its limits a store drops what has expired, then the oldest: age is what a TTL speaks of, and what is often read is
not for that reason still right. A model's upgrade invalidates by construction, since the upstream's name of every model
of the ladder and the whole system prompt are in the key.
"""
