import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.embedder import DIGESTS, MAX_CHARACTERS, SHIPPED, EmbedderError, MiniLM

CAPITAL = "What is the capital of France?"
GOLDEN = (0.0933, 0.0338, -0.0061, 0.0036, 0.0251, -0.0580)


@pytest.fixture(scope="module")
def embedder() -> MiniLM:
    return MiniLM.load()


def test_vectors_have_unit_length_and_the_stated_width(embedder: MiniLM):
    vectors = embedder.embed([CAPITAL, "", "a" * 50_000, "日本の首都はどこですか", "🚇"])
    assert vectors.shape == (5, embedder.dimensions)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_no_texts_give_no_rows(embedder: MiniLM):
    assert embedder.embed([]).shape == (0, 384)


def test_the_vector_is_the_one_calibrations_were_made_with(embedder: MiniLM):
    # int8 kernels round differently from CPU to CPU, hence the tolerance.
    np.testing.assert_allclose(embedder.embed([CAPITAL])[0, :6], GOLDEN, atol=2e-3)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=60), min_size=1, max_size=5
    )
)
def test_a_text_embeds_bitwise_the_same_alone_and_in_any_batch(embedder: MiniLM, texts: list[str]):
    together = embedder.embed([*texts, CAPITAL, "long " * 60])
    alone = np.vstack([embedder.embed([text]) for text in texts])
    assert together[: len(texts)].tobytes() == alone.tobytes()


def test_calls_from_several_threads_give_the_same_vectors(embedder: MiniLM):
    texts = [f"{CAPITAL} {n}" for n in range(24)]
    expected = embedder.embed(texts)
    with ThreadPoolExecutor(max_workers=4) as threads:
        rows = list(threads.map(lambda text: embedder.embed([text])[0], texts))
    assert np.vstack(rows).tobytes() == expected.tobytes()


def test_a_paraphrase_is_nearer_than_another_subject(embedder: MiniLM):
    asked, same, other = embedder.embed([CAPITAL, "Which city is France's capital?", "How do I bake bread?"])
    assert asked @ same > 0.85
    assert asked @ other < 0.2


def test_only_the_first_256_tokens_count(embedder: MiniLM):
    # 254 words of one token each, beside [CLS] and [SEP].
    head = "word " * 254
    first, with_tail, shorter = embedder.embed([head, head + "France " * 50, "word " * 200 + "France"])
    assert first.tobytes() == with_tail.tobytes()
    assert first.tobytes() != shorter.tobytes()


def test_text_beyond_the_read_characters_costs_and_changes_nothing(embedder: MiniLM):
    head = "the capital of France ".ljust(MAX_CHARACTERS, "x")
    cut, whole = embedder.embed([head, head + "y" * 1_000_000])
    assert cut.tobytes() == whole.tobytes()


def test_a_changed_file_is_refused_with_both_digests(tmp_path: Path):
    for name in DIGESTS:
        (tmp_path / name).write_bytes((SHIPPED / name).read_bytes() + b" ")
    with pytest.raises(EmbedderError, match=f"model.onnx has sha256 [0-9a-f]{{64}}.*{DIGESTS['model.onnx']}"):
        MiniLM.load(tmp_path)


def test_a_missing_file_is_named_with_its_remedy(tmp_path: Path):
    with pytest.raises(EmbedderError, match=r"model\.onnx: No such file.*install"):
        MiniLM.load(tmp_path)


def test_the_manifest_states_the_digests_of_the_shipped_files():
    manifest = json.loads((SHIPPED / "manifest.json").read_text(encoding="utf-8"))
    stated = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    lying = {name: hashlib.sha256((SHIPPED / name).read_bytes()).hexdigest() for name in DIGESTS}
    assert stated == lying == DIGESTS


def test_the_id_names_the_weights(embedder: MiniLM):
    assert embedder.id.endswith(DIGESTS["model.onnx"][:12])


def test_importing_the_module_loads_no_runtime():
    program = "import sys, backends.embedder; sys.exit(bool({'onnxruntime', 'tokenizers', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
