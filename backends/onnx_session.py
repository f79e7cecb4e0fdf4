"""A neural network on onnxruntime: one thread of its own caller, no memory kept for shapes that do not come again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


class OnnxError(Exception):
    """onnxruntime cannot start the network."""


class OnnxSession(Protocol):
    """The part of onnxruntime.InferenceSession that is used (the library carries no types); any thread may run it."""

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the named outputs."""
        ...


def start(weights: bytes) -> OnnxSession:
    """Start the network whose ONNX file's bytes these are.

    onnxruntime is imported here: it costs 0.2 s of start-up that a policy without a semantic cache need not pay.

    Raises:
        OnnxError: the bytes are no network that this onnxruntime runs.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # Sequences differ in length at every call, so a memory plan per length is kept for nothing.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    try:
        session: OnnxSession = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes share no other base
        raise OnnxError(f"onnxruntime {onnxruntime.__version__} cannot start the network: {error}") from error
    return session
