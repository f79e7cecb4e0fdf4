from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.words import Capability, ModelId, TenantId
from policies.errors import PolicyError
from policies.loader import MAX_BYTES, load_policy, parse_policy
from policies.schema import BackendKind, Policy

POLICIES = Path(__file__).parent.parent / "policies"
NOWHERE = Path("nowhere")

GOOD = """\
version: 1
models:
  small: {backend: vllm, name: Qwen/Qwen3-4B, pool: l40s-spot, capabilities: [chat, tools, logprobs]}
  large: {backend: openai, name: gpt-5, api_key: ${OPENAI_API_KEY}}
pools:
  l40s-spot:
    endpoints: [http://gpu-a:8000/v1, http://gpu-b:8000/v1/]
    usd_per_hour: 0.60
    throughput: {input_tokens_per_s: 8000, output_tokens_per_s: 1000}
routes:
  - name: support
    match: {tenant: support, model: support-bot}
    ladder: [small, large]
    quality: {max_loss: 0.03, confidence: 0.90}
    cache: {exact: {ttl: 24h}, semantic: {max_error: 0.05, ttl: 500ms}}
  - name: rest
    ladder: [large]
tenants: [{id: support}, {id: other}]
limits: {max_body_bytes: 20MB}
"""
ENVIRON = {"OPENAI_API_KEY": "sk-secret"}


def parse(text: str, environ: dict[str, str] | None = None, folder: Path = NOWHERE) -> Policy:
    return parse_policy(
        text, folder / "p.yaml", ENVIRON if environ is None else environ, calibrations_folder=folder / "shipped"
    )


def mistakes(text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        parse(text, environ)
    return [f"{m.line}:{m.column} {m.path}: {m.message}" for m in caught.value.mistakes]


def only_mistake(text: str, environ: dict[str, str] | None = None) -> str:
    (mistake,) = mistakes(text, environ)
    return mistake


def test_a_policy_says_what_its_file_says():
    policy = parse(GOOD)

    support = policy.routes[0]
    assert support.ladder == ("small", "large")
    assert support.cache.semantic is not None
    assert support.cache.semantic.ttl == timedelta(milliseconds=500)
    assert policy.pools["l40s-spot"].usd_per_hour == Decimal("0.60")
    assert policy.limits.max_body_bytes == 20_000_000
    assert policy.endpoints_of(ModelId("small")) == ("http://gpu-a:8000/v1", "http://gpu-b:8000/v1")


def test_a_replica_has_what_it_states_and_else_its_pools():
    own = "{endpoint: http://gpu-b:8000/v1, usd_per_hour: 0.2, spot: true, gpus: [1, GPU-8c5f6a3e-0000]}"
    pool = parse(GOOD.replace("0.60", f"0.60\n    watts: 300\n    replicas: [{own}]")).pools["l40s-spot"]

    assert [(each.usd_per_hour, each.is_spot, each.watts) for each in pool.machines] == [
        (Decimal("0.60"), False, 300),
        (Decimal("0.2"), True, 300),
    ]
    assert pool.machines[1].gpus == (1, "GPU-8c5f6a3e-0000")


def test_mistakes_in_budgets_stand_where_they_were_made():
    tenants = "[{id: support, timezone: europe/berlin, budget: {usd: 5, per: moth}}, {id: other, limits: {rpm: 0}}]"
    budgets = """
budgets:
  - {name: a, each: key, match: {key: k}, usd: 1, per: day}
  - {name: a, match: {route: suport}, usd: 1, per: day}
"""
    found = mistakes(GOOD.replace("[{id: support}, {id: other}]", tenants) + budgets)
    assert found[0].startswith("18:35 tenants[0].timezone: no such time zone; expected an IANA name")
    assert 'did you mean "Europe/Berlin"' in found[0]
    assert found[1:4] == [
        '18:72 tenants[0].budget.per: expected day, week, month or total; got "moth"; did you mean "month"?',
        '18:106 tenants[1].limits.rpm: expected greater than or equal to 1; got "0"',
        '22:15 budgets[0].each[0]: `match` fixes the key to "k", so there is but one; drop it from `each`',
    ]
    assert found[4].startswith('23:12 budgets[1].name: "a" is taken by budgets[0]')
    assert 'unknown route "suport"; the routes of the policy: support, rest; did you mean "support"?' in found[5]


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("{cache: memcached://a}", "expected `embedded`, or an address such as redis://"),
        ("{cache: redis://a}", "the semantic cache of support needs shared vectors"),
        ("{cache: {vectors: http://q:6333}}", "`vectors` in a server go with answers in one"),
        ("{cache: {at: redis://a, vectors: http://q:6333, vectors_key: k}}", None),
        ("{cache: {vectors_key: k}}", "`vectors_key` opens a Qdrant server"),
    ],
)
def test_where_the_caches_are_is_checked(storage: str, said: str | None):
    text = GOOD + f"storage: {storage}\n"
    if said is None:
        assert parse(text).storage.cache.is_shared
    else:
        (found,) = mistakes(text)
        assert said in found


@pytest.mark.parametrize("origin", ["https://a.example/", "app.example", "https://A.example", "https://u@a", "ftp://a"])
def test_an_origin_is_one_as_browsers_send_it(origin: str):
    (found,) = mistakes(GOOD + f"server: {{cors: {{origins: [http://localhost:3000, '{origin}']}}}}\n")
    assert "server.cors.origins[1]: expected an origin as browsers send it" in found
    assert parse(GOOD + "server: {cors: {origins: ['*']}}\n").server.cors.max_age_s == 600


@pytest.mark.parametrize("limits", ["{max_buffered_bytes: 90MB}", "{max_body_bytes: 2GB}"])
def test_there_is_room_for_the_largest_body_and_answer(limits: str):
    (found,) = mistakes(GOOD.replace("limits: {max_body_bytes: 20MB}", f"limits: {limits}"))
    assert "has no room for the largest body or answer" in found


def test_a_namespace_without_a_cache_has_no_effect():
    found = mistakes(GOOD.replace("ladder: [large]", "ladder: [large]\n    cache: {namespace: faq}"))
    assert "`namespace` has no effect without a cache" in found[0]


def test_what_is_left_out_is_filled_in():
    policy = parse(GOOD)

    large = policy.models["large"]
    assert (large.base_url, large.provider) == ("https://api.openai.com/v1", "openai")
    assert policy.models["small"].base_url is None
    assert policy.models["small"].provider is None
    assert Capability.LOGPROBS not in large.capabilities
    assert policy.routes[0].baseline == "large"
    assert policy.routes[1].cache.exact is None
    assert (policy.server.host, policy.server.port) == ("127.0.0.1", 4000)


def test_a_key_without_a_value_counts_as_absent():
    policy = parse(GOOD + "server:\ntimeouts: ~\n")

    assert policy.server.port == 4000
    assert policy.timeouts.total_s == 600


def test_a_policy_cannot_be_changed():
    policy = parse(GOOD)

    with pytest.raises(TypeError):
        policy.models["small"] = policy.models["large"]  # type: ignore[index]
    with pytest.raises(ValueError, match="frozen"):
        policy.routes[0].name = "x"


def test_all_mistakes_are_reported_at_once_where_they_stand():
    text = (
        GOOD.replace("backend: vllm", "backend: vlm")
        .replace("ladder: [large]", "lader: [large]")
        .replace("ttl: 24h", "ttl: 24")
        .replace("max_body_bytes: 20MB", "max_body_bytes: lots")
    )

    found = mistakes(text)

    assert found[0] == ('3:20 models.small.backend: expected vllm, llamacpp or openai; got "vlm"; did you mean "vllm"?')
    assert found[1].startswith("15:26 routes[0].cache.exact.ttl: expected a duration above 0 with its unit: 24h")
    assert found[2] == "16:5 routes[1].ladder: `ladder` is missing"
    assert found[3] == (
        '17:5 routes[1].lader: unknown key "lader"; allowed in routes[1]: '
        'name, match, ladder, baseline, quality, router, stream, cache, max_output_tokens; did you mean "ladder"?'
    )
    assert found[4].startswith("19:26 limits.max_body_bytes: expected a size such as 20MB")
    assert len(found) == 5


def test_an_unknown_key_does_not_hide_an_unknown_model():
    found = mistakes(GOOD.replace("ladder: [large]", "ladder: [lage]\n    cach: {}"))

    assert any("unknown model" in mistake and "lage" in mistake for mistake in found)
    assert any("unknown key" in mistake and "cach" in mistake for mistake in found)


def test_the_error_reads_as_file_line_column_path_and_message():
    with pytest.raises(PolicyError) as caught:
        parse(GOOD.replace("[small, large]", "[smal, large]"))

    assert str(caught.value) == (
        'nowhere/p.yaml:13:14: routes[0].ladder[0]: unknown model "smal"; the catalog has: small, large; '
        'did you mean "small"?'
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("pool: l40s-spot", "pool: l40s-spt", 'models.small.pool: unknown pool "l40s-spt"'),
        ("pool: l40s-spot", "base_url: http://x/v1", 'models.small: nothing prices "small"'),
        ("pool: l40s-spot, ", "", "models.small: `backend: vllm` needs `pool` or `base_url`"),
        ("pool: l40s-spot", "pool: l40s-spot, api_key: x", "models.small.api_key: `api_key` has no effect"),
        ("pool: l40s-spot", "pool: l40s-spot, base_url: http://x", "models.small.base_url: `base_url` has no effect"),
        ("pool: l40s-spot", "pool: l40s-spot, provider: openai", "models.small.provider: `provider` has no effect"),
        ("    throughput:", "    # throughput:", 'models.small.pool: nothing prices "small"'),
        ("gpu-b:8000/v1/", "gpu-a:8000/v1", 'endpoints[1]: "http://gpu-a:8000/v1" is listed twice'),
        ("gpu-b:8000/v1/", "me:pw@gpu-b/v1", "endpoints[1]: an address holds no user"),
        ("gpu-b:8000/v1/", "gpu-b:port/v1", "endpoints[1]: expected an address"),
        ("ladder: [large]", "ladder: [large, large]", 'routes[1].ladder[1]: "large" is on this ladder twice'),
        ("ladder: [large]", "ladder: []", "routes[1].ladder: expected at least one entry"),
        ("    quality", "    baseline: small\n    quality", 'routes[0].baseline: the baseline "small" is not the last'),
        (
            "    quality",
            "    baseline: x\n    quality",
            'routes[0].baseline: unknown baseline "x"; the ladder has: small',
        ),
        ("ladder: [small, large]", "ladder: [large]", "routes[0].quality: a ladder of one rung loses nothing"),
        ("tenant: support,", "tenant: suport,", 'unknown tenant "suport"; the tenants of the policy: support, other'),
        ("model: support-bot", "model: rest", 'routes[0].match.model: "rest" is another route\'s name'),
        ("name: rest", "name: large", 'routes[1].name: the catalog has a model "large"'),
        ("name: rest", "name: auto", 'routes[1].name: "auto" is what a client asks for'),
        ("name: rest", "name: support", 'routes[1].name: "support" is taken by routes[0]'),
        ("name: rest", "name: 'a>b'", "routes[1].name: expected a name of letters"),
        ("{id: other}", "{id: support}", 'tenants[1].id: "support" is taken by tenants[0]'),
        ("confidence: 0.90", "calibration: gone", 'calibration: unknown calibration "gone"; there is no file'),
        ("max_loss: 0.03", "max_loss: 1", 'routes[0].quality.max_loss: expected less than 1; got "1"'),
        ("usd_per_hour: 0.60", "usd_per_hour: -1", "usd_per_hour: expected greater than or equal to 0"),
        ("usd_per_hour: 0.60", "usd_per_hour: .inf", 'usd_per_hour: ".inf" is no number to compute with'),
        (
            "    usd_per_hour: 0.60",
            "    usd_per_hour: 0.60\n    replicas: [{endpoint: http://gpu-c:8000/v1, spot: true}]",
            'replicas[0].endpoint: unknown endpoint "http://gpu-c:8000/v1"; pools.l40s-spot.endpoints has',
        ),
        (
            "    usd_per_hour: 0.60",
            "    usd_per_hour: 0.60\n    replicas: [{endpoint: http://gpu-a:8000/v1}, {endpoint: http://gpu-a:8000/v1/}]",
            'replicas[1].endpoint: "http://gpu-a:8000/v1" is described by replicas[0] too',
        ),
        (
            "    usd_per_hour: 0.60",
            "    usd_per_hour: 0.60\n    replicas: [{endpoint: http://gpu-a:8000/v1, gpus: [0, 1, 0]}]",
            "replicas[0].gpus[2]: gpu 0 is http://gpu-a:8000/v1's already",
        ),
        (
            "    usd_per_hour: 0.60",
            "    usd_per_hour: 0.60\n    replicas: [{endpoint: http://gpu-a:8000/v1, gpus: [-1]}]",
            "replicas[0].gpus[0]: expected a card's number such as 0, or its id such as GPU-8c5f6a3e",
        ),
        (
            "limits:",
            "timeouts: {connect_s: 700}\nlimits:",
            "timeouts.connect_s: connect_s (700) is longer than total_s",
        ),
        ("limits:", "limits: {}\nlimits:", 'limits: duplicate key "limits", first on line 19; keep one'),
        ("name: gpt-5", "name: !env gpt-5", 'models.large.name: the tag "!env" is not allowed'),
        ("version: 1", "version: 2", "version: expected 1"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(old: str, new: str, expected: str):
    assert old in GOOD

    found = only_mistake(GOOD.replace(old, new, 1))

    assert expected in found


def test_a_model_may_not_be_called_auto():
    text = GOOD.replace("  small: {", "  auto: {").replace("[small, large]", "[auto, large]")

    assert 'models.auto: "auto" is what a client asks for' in only_mistake(text)


def test_a_route_below_a_catch_all_is_never_reached():
    text = GOOD.replace("tenants: [", "  - {name: late, match: {tenant: other}, ladder: [large]}\ntenants: [")

    assert 'routes[2]: never reached: route "rest" (routes[1])' in only_mistake(text)


def test_a_mistake_in_a_cache_does_not_hide_one_on_the_ladder():
    text = GOOD.replace("ttl: 24h", "ttl: soon").replace("[small, large]", "[small, larger]")

    assert [found.split(": ")[0] for found in mistakes(text)] == [
        "13:21 routes[0].ladder[1]",
        "15:26 routes[0].cache.exact.ttl",
    ]


def test_a_missing_variable_is_a_mistake_with_its_line():
    assert only_mistake(GOOD, {}) == (
        '4:50 models.large.api_key: the environment variable OPENAI_API_KEY is not set; run: export OPENAI_API_KEY="…"'
    )
    assert "OPENAI_API_KEY is empty" in only_mistake(GOOD, {"OPENAI_API_KEY": ""})


def test_variables_stand_anywhere_in_a_value():
    text = GOOD.replace("http://gpu-a:8000/v1", "'http://${HOST}:${PORT:-81}/v1'").replace("0.60", "${USD}")

    policy = parse(text, ENVIRON | {"HOST": "h", "USD": "0.125"})

    assert policy.pools["l40s-spot"].endpoints[0] == "http://h:81/v1"
    assert policy.pools["l40s-spot"].usd_per_hour == Decimal("0.125")


def test_a_doubled_dollar_is_a_literal_one():
    assert parse(GOOD.replace("name: gpt-5", "name: '$${X}'")).models["large"].name == "${X}"


def test_a_key_of_digits_stays_a_key():
    policy = parse(GOOD, {"OPENAI_API_KEY": "0123"})

    key = policy.api_key_of(ModelId("large"))
    assert key is not None
    assert key.get_secret_value() == "0123"


@pytest.mark.parametrize("secret", ["a b", "schlüssel", "x\ny"])
def test_no_mistake_shows_a_secret(secret: str):
    assert secret not in only_mistake(GOOD, {"OPENAI_API_KEY": secret})
    assert "hunter2" not in only_mistake(GOOD.replace("http://gpu-a:8000/v1", "'http://me:hunter2@gpu-a/v1'"))
    assert "hunter two" not in only_mistake(GOOD.replace("${OPENAI_API_KEY}", "'hunter two'"))


def test_secrets_show_in_no_text_of_a_policy():
    policy = parse(GOOD)

    assert "sk-secret" not in repr(policy)
    assert "sk-secret" not in policy.model_dump_json()


def test_the_digest_follows_the_meaning_and_not_the_secrets():
    policy = parse(GOOD)

    assert parse(GOOD.replace("\nlimits", "\n# a comment\nlimits"), {"OPENAI_API_KEY": "b"}).digest == policy.digest
    assert parse(GOOD.replace("0.03", "0.04")).digest != policy.digest
    assert len(policy.digest) == 64


def test_the_digest_is_the_same_in_every_process():
    script = "import sys; from policies.loader import load_policy; print(load_policy(sys.argv[1], {}).digest)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", script, str(POLICIES / "default.yaml")],
            env={**os.environ, "PYTHONHASHSEED": seed},  # noqa: TID251  # a child needs its surroundings
            cwd=POLICIES.parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(digests) == 1


def test_anchors_and_merge_keys_are_followed_and_own_keys_win():
    text = GOOD.replace("name: rest\n", "name: rest\n    <<: &base {ladder: [small], stream: {holdback_ms: 9}}\n")

    route = parse(text).routes[1]

    assert route.ladder == ("large",)
    assert route.stream.holdback_ms == 9


def bomb(first: str, form: str) -> str:
    """Seven levels of ten aliases each: ten million values in a few hundred bytes."""
    levels = zip("bcdefgh", "abcdefg", strict=True)
    lines = [f"{name}: &{name} " + form.format(",".join([f"*{below}"] * 10)) for name, below in levels]
    return "\n".join([f"a: &a {first}", *lines])


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "a: &a {<<: *a}",
        bomb("[1]", "[{}]"),
        bomb("{x: 1}", "{{<<: [{}]}}"),
        "[" * 1000,
        "? [a]\n: 1",
        "!!python/object:os.system {}",
        "--- 1\n--- 2",
        "",
        "~",
        "just text",
        "a: b: c",
        "a: \x00",
        "\ufeff",
        "a: 0o99",
        "a: " + "9" * 5000,
        "a: *b",
        "'${A'",
    ],
    ids=range(18),
)
def test_hostile_or_broken_yaml_is_a_mistake_and_no_crash(text: str):
    with pytest.raises(PolicyError) as caught:
        parse(text)

    assert caught.value.mistakes


@given(st.text(alphabet="ab:-[]{}&*<!#'\"\n $|>%@0.", max_size=60))
def test_any_text_is_a_policy_or_a_list_of_mistakes(text: str):
    with pytest.raises(PolicyError) as caught:
        parse(text)

    assert caught.value.mistakes


def test_a_file_that_cannot_be_a_policy_is_refused(tmp_path: Path):
    file = tmp_path / "p.yaml"
    for content, reason in ((b"a: \xff", "not UTF-8"), (b"#" * (MAX_BYTES + 1), "larger than")):
        file.write_bytes(content)
        with pytest.raises(PolicyError, match=reason):
            load_policy(file, {})
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(tmp_path / "absent.yaml", {})


def test_a_calibration_is_shipped_by_name_or_lies_beside_the_policy(tmp_path: Path):
    (tmp_path / "shipped").mkdir()
    for name in ("shipped/known.json", "own.json"):
        (tmp_path / name).write_text("{}")

    for written, file in (("known", "shipped/known.json"), ("own.json", "own.json"), ("./own.json", "own.json")):
        policy = parse(GOOD.replace("confidence: 0.90", f"calibration: {written}"), folder=tmp_path)
        assert policy.calibration_files(policy.routes[0]) == (tmp_path / file,)
        assert policy.calibration_files(policy.routes[1]) == ()


@pytest.mark.parametrize(
    ("tenant", "model", "route", "pinned"),
    [
        ("support", "support-bot", "support", None),
        ("support", "support", "support", None),
        ("support", "auto", "rest", None),
        ("support", "small", "rest", "small"),
        ("other", "rest", "rest", None),
        ("other", "large", "rest", "large"),
    ],
)
def test_a_request_falls_under_the_first_route_that_takes_it(tenant: str, model: str, route: str, pinned: str | None):
    selection = parse(GOOD).select(TenantId(tenant), model)

    assert selection is not None
    assert (selection.route.name, selection.pinned) == (route, pinned)


@pytest.mark.parametrize("model", ["support-bot", "support", "unheard-of"])
def test_what_a_tenant_may_not_ask_for_falls_under_nothing(model: str):
    assert parse(GOOD).select(TenantId("other"), model) is None


def test_a_route_that_names_a_catalog_model_takes_its_requests_over():
    policy = parse(GOOD.replace("model: support-bot", "model: large"))

    selection = policy.select(TenantId("support"), "large")
    assert selection is not None
    assert (selection.route.name, selection.pinned) == ("support", None)


def test_a_tenant_sees_exactly_the_names_it_may_ask_for():
    policy = parse(GOOD)

    assert policy.names_for(TenantId("support")) == ("auto", "support", "rest", "support-bot", "small", "large")
    assert policy.names_for(TenantId("other")) == ("auto", "rest", "small", "large")


def demo_environ() -> dict[str, str]:
    environ = {}
    for rung in ("SMALL", "LARGE"):
        environ[f"FAREGATE_{rung}_URL"] = "http://127.0.0.1:9/v1"
        environ |= {f"FAREGATE_{rung}_{kind}_TPS": "12.5" for kind in ("INPUT", "CACHED", "OUTPUT")}
    return environ


@pytest.mark.parametrize("name", ["default", "demo", "example-providers"])
def test_every_shipped_policy_holds(name: str, tmp_path: Path):
    (tmp_path / "qwen2.5-coder-0.5b-1.5b.json").write_text("{}")

    policy = load_policy(POLICIES / f"{name}.yaml", ENVIRON | demo_environ(), calibrations_folder=tmp_path)

    assert policy.select(policy.tenant_ids[0], "auto") is not None
    assert all(isinstance(model.backend, BackendKind) for model in policy.models.values())


def test_revenue_spot_and_watts_are_read():
    text = GOOD.replace("usd_per_hour: 0.60", "usd_per_hour: 0.60\n    spot: true\n    watts: 350")

    policy = parse(f"{text}revenue: [{{tenant: support, feature: chat, usd_per_answer: 0.01}}]\n")

    assert (policy.pools["l40s-spot"].spot, policy.pools["l40s-spot"].watts) == (True, 350)
    assert policy.revenue[0].usd_per_answer == Decimal("0.01")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{tenant: suport, usd_per_month: 5}", 'unknown tenant "suport"; the tenants of the policy: support, other'),
        ("{tenant: support}", "expected usd_per_request, usd_per_answer or usd_per_month"),
    ],
)
def test_revenue_that_cannot_count_is_a_mistake(rule: str, message: str):
    assert message in only_mistake(f"{GOOD}revenue: [{rule}]\n")


LOW = GOOD.replace("  large:", "  large@low: {backend: openai, name: gpt-5, parameters: {PARAMETERS}}\n  large:")


def test_models_of_one_name_differ_by_their_parameters():
    policy = parse(LOW.replace("PARAMETERS", "reasoning_effort: low, top_p: 0.5"))
    low, large = (policy.models[ModelId(name)] for name in ("large@low", "large"))
    assert dict(low.parameters) == {"reasoning_effort": "low", "top_p": 0.5}
    assert (low.variant, large.variant) == ('gpt-5 {"reasoning_effort":"low","top_p":0.5}', "gpt-5")


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("temperature: 1", '"temperature" is the request\'s own'),
        ("max_tokens: many", "max_tokens must be a number of tokens from 1 to 10000000, not 'many'"),
        ("max_tokens: 5, max_completion_tokens: 5", "one cap under two names"),
    ],
)
def test_what_is_the_requests_own_is_no_parameter(parameters: str, said: str):
    assert said in only_mistake(LOW.replace("PARAMETERS", parameters))


def test_parameters_of_a_model_that_only_embeds_are_a_mistake():
    text = LOW.replace("PARAMETERS}", "seed: 1}, capabilities: [embeddings]")
    assert "answers neither" in only_mistake(text)


@pytest.mark.parametrize(
    ("quality", "said"),
    [
        ("calibration: own.json, calibrations: [own.json]", "give one of them"),
        ("calibrations: [own.json, other.json]", "2 calibrations for 1 rungs below the baseline"),
        ("calibrations: [absent]", 'unknown calibration "absent"'),
    ],
)
def test_calibrations_fit_the_ladder(tmp_path: Path, quality: str, said: str):
    for name in ("own.json", "other.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(PolicyError, match=said):
        parse(GOOD.replace("confidence: 0.90", quality), folder=tmp_path)


@pytest.mark.parametrize(
    ("signals", "said"),
    [
        ("{large: text}", 'unknown rung "large"; only rungs below the baseline are judged: small'),
        ("{smal: text}", 'did you mean "small"'),
        ("{small: guess}", "expected logprobs, text, self_check or agreement"),
    ],
)
def test_signals_are_of_judged_rungs_and_known(signals: str, said: str):
    assert said in only_mistake(GOOD.replace("confidence: 0.90", f"signals: {signals}"))


def test_a_model_without_log_probabilities_is_not_judged_by_them():
    text = GOOD.replace("confidence: 0.90", "signals: {small: logprobs}")
    assert "self_check" in only_mistake(text.replace("[chat, tools, logprobs]", "[chat, tools]"))


def test_each_calibration_of_a_ladder_is_found(tmp_path: Path):
    (tmp_path / "own.json").write_text("{}")
    policy = parse(GOOD.replace("confidence: 0.90", "calibrations: [own.json]"), folder=tmp_path)
    assert policy.calibration_files(policy.routes[0]) == (tmp_path / "own.json",)
