"""Prompts and answers that a policy wants stored (`ledger.content`): redacted, or encrypted. By default there are none.

Rooms:
    redaction      what patterns can tell to be personal or secret, taken out of text; pure
    cipher         AES-256-GCM under a key from the environment
    store          `content.db` in the storage folder: rows that may be deleted, unlike the ledger's
    tape           a sink that keeps what is sent of a stream
    keeper         what is taken from a journey, and the thread that stores it

Rules:
- nothing of it is on the request's way but a copy of what is sent; a full queue loses content, never a request;
- a row is found by its request's id, which the ledger has; the ledger itself has no place for text;
- what is deleted (retention, size, a forgotten end user) is overwritten in the file (`secure_delete`);
- redaction finds patterns: addresses, numbers, secrets. It does not find names; where those matter, encrypt.
"""
