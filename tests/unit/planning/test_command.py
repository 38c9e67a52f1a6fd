"""``clipseek-server plan`` as it is called."""

import json
import subprocess
import sys

import pytest

from clipseek_server.cli import main


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(["plan", *arguments])
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_a_table_says_of_each_number_how_it_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    text = planned(capsys, "--pictures", "50M", "--qps", "200")
    assert text.startswith("50,000,000 pictures, 200 searches/s by text, vectors of 512, fp32: ")
    lines = text.partition("\nNotes\n")[0].splitlines()
    numbers = [line for line in lines if line.startswith("  ") and line[2] != " "]
    assert len(numbers) > 20
    assert all("  measured  " in line or "  calculated  " in line for line in numbers)
    [cores] = [line for line in numbers if "its cores" in line]
    assert "400 cores" in cores
    assert max(map(len, text.splitlines())) <= 120


def test_json_holds_wishes_and_lines(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--qps", "5", "--inserts-per-second", "2", "--dimension", "768", "--precision", "int8", "--core-hour", "1"]
    document = json.loads(planned(capsys, "--pictures", "1.5M", *flags, "--json"))
    assert document["wishes"]["pictures"] == 1_500_000
    assert document["wishes"]["inserts_per_second"] == 2
    assert (document["runs"], document["index"]) == ("standalone", "IVF_FLAT")
    lines = {line["key"]: line for line in document["lines"]}
    assert lines["vectors_flat_bytes"]["value"] == 1_500_000 * 768 * 4
    assert lines["import_per_core"]["kind"] == "measured"
    assert lines["cost_import"]["value"] == pytest.approx(lines["import_core_hours"]["value"])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "--pictures"),
        (["--pictures", "many"], "'many' is no number of pictures: write 10k, 50M, 1B or 300,000"),
        (["--pictures", "1,5M"], "'1,5M' is no number of pictures: write 10k, 50M, 1B or 300,000"),
        (["--pictures", "0"], "argument --pictures: 0: Input should be greater than or equal to 1"),
        (["--pictures", "1M", "--qps", "-1"], "argument --qps: -1: Input should be greater than or equal to 0"),
        (["--pictures", "1M", "--qps", "nan"], "should be a finite number"),
        (["--pictures", "1M", "--busy", "1.5"], "should be less than or equal to 1"),
        (["--pictures", "1M", "--dimension", "5.5"], "argument --dimension: 5.5: Input should be a valid integer"),
        (["--pictures", "1M", "--index", "DISKANN"], "should be 'FLAT', 'IVF_FLAT' or 'HNSW'"),
        (["--pictures", "1M", "--listen", "x"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_is_answered_in_words(
    capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", *arguments])
    assert ended.value.code == 2
    assert problem in capsys.readouterr().err


def test_help_teaches_by_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    examples = [line.split()[2:] for line in text.splitlines() if line.startswith("  clipseek-server plan ")]
    assert len(examples) >= 3
    for example in examples:
        assert planned(capsys, *example)


def test_it_needs_neither_models_nor_milvus() -> None:
    script = (
        "import sys; from clipseek_server.cli import main; main(['plan', '--pictures', '1M', '--json']); "
        "heavy = {'onnxruntime', 'pymilvus', 'milvus_lite', 'faiss', 'numpy', 'PIL'} & set(sys.modules); "
        "sys.exit(f'{heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["runs"] == "standalone"
