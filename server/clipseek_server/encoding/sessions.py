"""ONNX Runtime: opening a graph on the providers asked for, and running it."""

import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from clipseek_server.config import OpenVinoPrecision
from clipseek_server.errors import StartupError

OPENVINO = "OpenVINOExecutionProvider"

_EXTRAS = {"onnxruntime": "server", "onnxruntime-gpu": "server-gpu", "onnxruntime-openvino": "server-openvino"}
"""The extra that brings each of ONNX Runtime's distributions."""

_ERRORS_ONLY = 3


class GraphSession:
    """One tower's graph, ready to run.

    Args:
        path: The ONNX file.
        providers: ONNX Runtime's execution providers in order of preference.
        threads: Threads that one run may use.
        openvino_precision: What OpenVINO computes in.

    Raises:
        StartupError: The graph cannot be loaded, or a provider was not got and no later one either.
    """

    def __init__(
        self,
        path: Path,
        providers: Sequence[str],
        threads: int,
        *,
        openvino_precision: OpenVinoPrecision = "f32",
    ) -> None:
        available = ort.get_available_providers()
        wanted = [provider for provider in providers if provider in available]
        if not wanted:
            raise StartupError(_not_got(providers, available))
        if "CUDAExecutionProvider" in wanted:
            # CUDA and cuDNN came as wheels, where the loader does not look.
            ort.preload_dlls()
        configured = [
            (provider, _openvino_options(threads, openvino_precision) if provider == OPENVINO else {})
            for provider in wanted
        ]
        try:
            self._session = ort.InferenceSession(str(path), _options(threads), providers=configured)
        except Exception as error:
            raise StartupError(f"{path} cannot be loaded: {error}") from error
        got = self._session.get_providers()
        # ONNX Runtime falls back to the CPU without a word.
        if not set(got) & set(providers):
            raise StartupError(_not_got(providers, got))
        self.openvino_precision = openvino_precision if OPENVINO in got else None
        """What OpenVINO computes in; ``None`` if the session did not get it."""
        in_bf16 = self.openvino_precision == "bf16"
        self.providers = tuple(f"{name} (bf16)" if in_bf16 and name == OPENVINO else name for name in got)
        """What the session really got, and in what it computes where that is not what the graph says."""

    def run(self, **inputs: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Run a batch: float32 ``[batch, dimension]``. It blocks and lets go of the GIL."""
        (embeddings,) = self._session.run(["embedding"], inputs)
        result: npt.NDArray[np.float32] = np.asarray(embeddings, np.float32)
        return result


def check_runtime() -> None:
    """Refuse an environment with two of ONNX Runtime's distributions: they overwrite each other's files.

    Raises:
        StartupError: More than one is installed.
    """
    installed = [name for name in _EXTRAS if _is_installed(name)]
    if len(installed) > 1:
        raise StartupError(
            f"{' and '.join(installed)} are installed and overwrite each other; run "
            f"'pip uninstall -y {' '.join(installed)}', then install one of the extras {', '.join(_EXTRAS.values())}"
        )


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads of one tower would starve the other's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # A memory pattern is kept for each shape, and batches and texts come in every shape.
    options.enable_mem_pattern = False
    return options


def _openvino_options(threads: int, precision: OpenVinoPrecision) -> dict[str, str]:
    # It has threads of its own, and would choose the precision by what the processor can.
    config = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
    return {"device_type": "CPU", "load_config": json.dumps({"CPU": config})}


def _not_got(asked: Sequence[str], got: Sequence[str]) -> str:
    return (
        f"none of the providers asked for ({', '.join(asked)}) could be used, only {', '.join(got)}; "
        "CUDA needs its driver and the extra server-gpu, OpenVINO the extra server-openvino; or add "
        "CPUExecutionProvider to the setting"
    )
