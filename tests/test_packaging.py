"""What is shipped: the five packages and their data, and nothing heavy on the way to the first answer."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    code = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=False, capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(folder / built.stdout.split()[-1]) as opened:
        yield opened


def test_the_wheel_holds_the_five_packages_and_nothing_else(wheel: zipfile.ZipFile):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "backends",
        "gateway",
        "policies",
        "router",
        "semantic_cache",
    }
    assert len(tops) == 6


@pytest.mark.parametrize(
    "name",
    [
        "backends/minilm/model.onnx",
        "backends/minilm/tokenizer.json",
        "policies/default.yaml",
        "policies/demo.yaml",
        "router/artefacts/MODEL_CARD.md",
        "router/artefacts/default.json",
        "router/calibrations/qwen2.5-coder-0.5b-1.5b.json",
        "semantic_cache/calibrations/acceptance.json",
        "semantic_cache/calibrations/cross_encoder.onnx",
        "gateway/cli.py",
    ],
)
def test_the_wheel_holds_what_serving_reads(wheel: zipfile.ZipFile, name: str):
    assert name in wheel.namelist()


def test_the_wheel_has_the_command_and_the_licence(wheel: zipfile.ZipFile):
    entries = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "faregate = gateway.cli:main" in wheel.read(entries).decode()
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_what_only_training_reads_is_not_in_the_wheel(wheel: zipfile.ZipFile):
    assert not [name for name in wheel.namelist() if name.startswith("semantic_cache/questions/")]


def test_no_caches_or_secrets_are_shipped(wheel: zipfile.ZipFile):
    bad = [n for n in wheel.namelist() if "__pycache__" in n or n.endswith((".pyc", ".db", "keys.json", ".env"))]
    assert bad == []


OPENED = """
import asyncio, sys
from pathlib import Path
from backends.clock import SystemClock
from gateway.compose import open_gateway
from gateway.serve import serve
from gateway.side import side_door
from policies.loader import load_policy

async def main():
    policy = load_policy(Path(sys.argv[1]), {})
    async with open_gateway(policy, environ={}, clock=SystemClock()) as opened:
        side_door(opened)

asyncio.run(main())
print("\\n".join(sys.modules))
"""


def test_serving_imports_nothing_of_training(tmp_path: Path):
    from tests.served.world import a_policy, write_policy

    file = write_policy(tmp_path, a_policy(["http://127.0.0.1:9/v1"]))
    run = subprocess.run(
        [sys.executable, "-c", OPENED, str(file)], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.split())
    heavy = {"torch", "sklearn", "scipy", "pandas", "sentence_transformers", "onnx", "vllm", "xllamacpp", "openai"}
    assert not loaded & heavy
    assert not {name for name in loaded if name.startswith(("router.train", "semantic_cache.train"))}
    assert "opentelemetry.sdk" not in loaded
