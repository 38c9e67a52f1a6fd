import importlib.metadata

import numpy as np
import onnxruntime as ort
import pytest

from clipseek_server.encoding import sessions
from clipseek_server.encoding.bundle import VISION_FILE
from clipseek_server.encoding.sessions import GraphSession, check_runtime
from clipseek_server.errors import StartupError

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
WITHOUT_CUDA = pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this machine may have a GPU")


def test_a_graph_runs_and_says_what_it_got(bundle):
    session = GraphSession(bundle / VISION_FILE, [CPU], 1)
    assert session.providers == (CPU,)
    embeddings = session.run(pixels=np.zeros((3, 3, 32, 32), np.uint8))
    assert (embeddings.shape, embeddings.dtype) == ((3, 32), np.float32)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


@WITHOUT_CUDA
def test_a_later_provider_may_stand_in(bundle):
    assert GraphSession(bundle / VISION_FILE, [CUDA, CPU], 1).providers == (CPU,)


@WITHOUT_CUDA
def test_a_provider_that_is_not_got_is_an_error(bundle):
    with pytest.raises(StartupError, match=r"CUDAExecutionProvider\) could be used.*add CPUExecutionProvider"):
        GraphSession(bundle / VISION_FILE, [CUDA], 1)


@pytest.mark.parametrize("asked", [["NoSuchProvider"], []])
def test_an_unknown_provider_is_an_error(bundle, asked):
    with pytest.raises(StartupError, match="none of the providers"):
        GraphSession(bundle / VISION_FILE, asked, 1)


def test_onnx_runtimes_silent_fallback_is_an_error(bundle, monkeypatch):
    # What happens with onnxruntime-gpu on a machine without a GPU: CUDA is listed, and the CPU runs.
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["AzureExecutionProvider", CPU])
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", lambda path, options, providers: real(path, options, providers=[CPU]))
    with pytest.raises(StartupError, match="AzureExecutionProvider"):
        GraphSession(bundle / VISION_FILE, ["AzureExecutionProvider"], 1)


def test_a_file_that_is_no_graph_is_an_error(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"not a graph")
    with pytest.raises(StartupError, match="cannot be loaded"):
        GraphSession(tmp_path / "x.onnx", [CPU], 1)


def test_one_runtime_is_fine():
    check_runtime()


def test_two_runtimes_are_refused(monkeypatch, tmp_path):
    for name in ("onnxruntime", "onnxruntime_gpu"):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.metadata.version("onnxruntime-gpu") == "1.0"
    with pytest.raises(StartupError, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        sessions.check_runtime()
