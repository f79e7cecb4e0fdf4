"""A stored answer in pieces: put together it is the answer, but for what is each request's own."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.words import Usage
from gateway.relay import _CREATED, _ID, _pieces

VALUES = st.recursive(st.none() | st.integers(-9, 9) | st.text(max_size=5), lambda each: st.lists(each, max_size=3))
NAMES = st.sampled_from(["id", "created", "object", "model", "choices", "a%b", "\0id"])
USAGES = st.none() | st.just({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7})


@settings(max_examples=50)
@given(st.dictionaries(NAMES, VALUES), USAGES)
def test_only_id_time_and_usage_are_other_than_what_was_stored(stored: dict[str, object], usage: object):
    stored |= {} if usage is None else {"usage": usage}
    pieces = _pieces(msgspec.json.encode(stored), Usage(input_tokens=3), "cache:exact", wants_usage=usage is not None)

    told = msgspec.json.decode(b"".join({_ID: b"req-1", _CREATED: b"17"}.get(piece, piece) for piece in pieces))

    assert list(told) == list(stored)
    changed = {"id": "chatcmpl-req-1", "created": 17, "usage": told.get("usage")}
    assert told == {name: changed.get(name, value) for name, value in stored.items()}
    assert usage is None or (told["usage"]["cost"], told["usage"]["faregate"]["path"]) == (0, "cache:exact")
