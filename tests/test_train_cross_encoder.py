from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from semantic_cache.train_cross_encoder import main


@pytest.mark.skipif(find_spec("torch") is not None, reason="shows what happens without torch")
def test_missing_torch_is_told_before_any_work(tmp_path: Path):
    result = CliRunner().invoke(main, ["--out", str(tmp_path / "x.onnx")])
    assert result.exit_code == 1
    assert 'pip install "faregate[embedder,train]"' in result.output


def test_a_subject_that_is_none_is_told_before_any_work(tmp_path: Path):
    result = CliRunner().invoke(main, ["--out", str(tmp_path / "x.onnx"), "--without", "gossip"])
    assert result.exit_code == 2
    assert "'gossip' is none of devices, health" in result.output
