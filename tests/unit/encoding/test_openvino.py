"""OpenVINO in a process of its own: its ONNX Runtime lies beside the environment's, which it would overwrite."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clipseek_server.encoding.bundle import MANIFEST_FILE
from models import disturbed

RUNTIME = Path(sys.prefix) / "openvino"
"""Where `make test` installs it."""

pytestmark = pytest.mark.skipif(
    not (RUNTIME / "onnxruntime").exists(), reason="there is no ONNX Runtime with OpenVINO for this machine"
)

EMBED = """
import json, sys
from pathlib import Path
import numpy as np
from clipseek_server.encoding.sessions import GraphSession

graph, inputs, providers, precision = json.loads(sys.argv[1])
session = GraphSession(Path(graph), providers, 2, openvino_precision=precision)
arrays = {name: np.array(value, kind) for name, (kind, value) in inputs.items()}
print(json.dumps([session.providers, session.run(**arrays).tolist()]))
"""

OPENVINO, CPU = "OpenVINOExecutionProvider", "CPUExecutionProvider"
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32))
INPUTS = {
    "vision.onnx": {"pixels": ("uint8", PIXELS.tolist())},
    "text.onnx": {
        "input_ids": ("int64", [[1, 5, 2], [1, 2, 0]]),
        "attention_mask": ("int64", [[1, 1, 1], [1, 1, 0]]),
    },
}


def run(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(RUNTIME), *sys.path])}
    return subprocess.run([sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True)


def embed(graph: Path, providers: list[str], precision: str = "f32") -> tuple[list[str], np.ndarray]:
    argument = json.dumps([str(graph), INPUTS[graph.name], providers, precision])
    done = run(EMBED, argument)
    assert done.returncode == 0, done.stderr
    got, embeddings = json.loads(done.stdout)
    return got, np.array(embeddings, np.float32)


@pytest.mark.parametrize("tower", INPUTS)
def test_it_embeds_as_the_cpu_does(bundle: Path, tower: str) -> None:
    _, expected = embed(bundle / tower, [CPU])
    got, exact = embed(bundle / tower, [OPENVINO])
    assert got[0] == OPENVINO
    np.testing.assert_allclose(exact, expected, atol=1e-4)


@pytest.mark.parametrize("tower", INPUTS)
def test_bf16_is_near_and_not_the_same_where_the_processor_has_it(bundle: Path, tower: str) -> None:
    _, expected = embed(bundle / tower, [CPU])
    _, rounded = embed(bundle / tower, [OPENVINO], "bf16")
    assert (rounded * expected).sum(axis=1).min() > 0.999
    if "avx512_bf16" in Path("/proc/cpuinfo").read_text():
        assert np.abs(rounded - expected).max() > 1e-4


LOAD = """
import sys
from pathlib import Path
from clipseek_server.config import Settings
from clipseek_server.encoding import model
from clipseek_server.encoding.decoding import DecodePool

model.check_runtime = lambda: None  # The environment's own runtime is there too, and not used.
folder, precision = sys.argv[1:]
settings = Settings(threads=1, providers=["OpenVINOExecutionProvider"], openvino_precision=precision)
pool = DecodePool(1, max_pixels=10**6, max_queue=8)
loaded = model.LoadedModel.load(Path(folder), settings, pool, thumbnail=lambda image: b"")
print(loaded.vision_providers[0], loaded.text_providers[0], sep=", ")
"""


def load(folder: Path, precision: str) -> "subprocess.CompletedProcess[str]":
    return run(LOAD, str(folder), precision)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_model_loads_and_its_golden_pairs_hold(bundle: Path, precision: str) -> None:
    done = load(bundle, precision)
    assert done.returncode == 0, done.stderr
    provider = f"{OPENVINO} (bf16)" if precision == "bf16" else OPENVINO
    assert done.stdout.splitlines()[-1] == f"{provider}, {provider}"
    assert "int8 bundle" not in done.stdout


def test_bf16_need_not_agree_as_f32_must_and_int8_is_warned_of(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    for golden in manifest["golden"]:
        golden["embedding"] = disturbed(golden["embedding"], 0.06)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    refused = load(folder, "f32")
    assert refused.returncode != 0
    assert "below 0.9999" in refused.stderr
    assert load(folder, "bf16").returncode == 0
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest | {"precision": "int8"}))
    assert "OpenVINO takes longer for an int8 bundle" in load(folder, "f32").stdout
