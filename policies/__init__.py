"""The YAML and what it promises: schema, loading with all mistakes at once, keys, and the statistics of promises.

Rooms:
    schema                 every key, its bounds and its default; nothing is parsed and ignored
    money, values          the schema's prices, pools, budgets and ledger; its scalars. `schema` has their names too
    document, loader       YAML with positions and `${NAME}`; a file to a `Policy` or to all of its mistakes
    checks                 what spans two parts: a route's models, a pool's price, a match's tenant
    windows                a budget's days, weeks and months in a time zone
    keys                   API keys as digests in the storage folder
    signals                what a rung's answer may be weighed by
    promise                bounds and fixed-sequence testing (numpy only)
    sealed                 artefacts as JSON with a digest of their content
    sequence               what live verdicts say of a promise, whenever one looks, and its state (numpy only)
    *.yaml                 `default`, `demo`, `example-providers`

Decided here, other than the design to start from: the baseline is always the ladder's last rung; tenants are named in
the policy and their keys are not (see `gateway`); `storage` is one folder.
"""
