"""Settings are checked when they are read, and say in words what is wrong."""

import os
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from clipseek.v1 import embedding_service_pb2
from clipseek_server import config
from clipseek_server.config import Settings, load_settings, settings_as_toml
from clipseek_server.images import thumbnails
from clipseek_server.rpc import convert


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("CLIPSEEK_"):
            monkeypatch.delenv(name)


def load(*arguments: str) -> Settings:
    return load_settings(arguments, program="test")


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:50051", "localhost:1", "unix:/tmp/clipseek.sock"])
def test_addresses(address):
    assert load("--listen", address).listen == address


@pytest.mark.parametrize("address", ["127.0.0.1:65536", "127.0.0.1:-5", "50051", ":50051", "localhost", ""])
def test_bad_addresses(address):
    with pytest.raises(ValidationError, match="HOST:PORT"):
        load("--listen", address)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--milvus-uri", "./demo.db"], "http://milvus:19530"),
        (["--milvus-uri", "http://"], "http://milvus:19530"),
        (["--milvus-user", "root"], "set milvus_uri too"),
        (["--milvus-password", "secret"], "set milvus_uri too"),
        (["--milvus-uri", "http://m:1", "--milvus-tls-ca", "ca.pem"], "https://"),
        (["--milvus-uri", "https://m:1", "--milvus-tls-ca", "/nope.pem"], "no file /nope.pem"),
        (["--s3-endpoint", "http://minio:9000"], "set image_store too"),
        (["--image-store", "s3://pictures", "--s3-endpoint", "minio:9000"], "https://HOST:PORT"),
        (["--image-store", "s3://pictures", "--s3-endpoint", "http://m:1/pictures?x"], "https://HOST:PORT"),
        (["--image-store", "s3://pictures", "--s3-tls-ca", "/nope.pem"], "no file /nope.pem"),
        (
            ["--image-store", "s3://pictures", "--s3-endpoint", "http://m:1", "--s3-tls-ca", "ca.pem"],
            "https:// s3_endpoint",
        ),
        (["--ivf-nlist", "8", "--ivf-nprobe", "9"], "ivf_nprobe"),
        (["--max-metadata-bytes", "3171"], "max_page_size.* 4 MB"),
        (["--max-top-k-with-mask", "81"], "max_top_k_with_mask.* 4 MB"),
        (["--max-batch-items", "255"], "max_batch_items.* 4 MB"),
        (["--bulk-window", "2000"], "bulk_window.* 4 MB"),
        (["--max-image-bytes", "40000000"], "max_message_bytes"),
        (["--max-image-bytes", "33554432"], "max_message_bytes"),
        (["--max-message-bytes", "200000000", "--max-image-bytes", "1000000"], "max_bytes_in_flight"),
        (["--bundles", ""], "at least one"),
    ],
)
def test_settings_that_do_not_fit_together(arguments, reason):
    with pytest.raises(ValidationError, match=reason):
        load(*arguments)


@pytest.mark.parametrize("url", ["s3://pictures", "s3://my.pictures-2/of_me/2024"])
def test_image_stores(url):
    assert load("--image-store", url, "--s3-endpoint", "http://minio:9000").image_store == url


@pytest.mark.parametrize(
    "url",
    [
        "pictures",
        "/pictures",
        "s3://",
        "s3:///x",
        "http://m/x",
        "s3://a/",
        "s3://a//b",
        "s3://a/../b",
        "s3://k:p@a",
        "s3://a?b",
    ],
)
def test_bad_image_stores(url):
    with pytest.raises(ValidationError, match="s3://BUCKET/PREFIX"):
        load("--image-store", url)


def test_no_access_key_in_an_address():
    with pytest.raises(ValidationError, match="access keys go into the environment"):
        load("--image-store", "s3://pictures", "--s3-endpoint", "http://key:secret@m:9000")


def test_the_largest_limits_that_fit():
    assert load("--max-metadata-bytes", "3170").max_metadata_bytes == 3170
    settings = load("--max-top-k-with-mask", "80", "--max-batch-items", "254", "--bulk-window", "1700")
    assert (settings.max_top_k_with_mask, settings.max_batch_items, settings.bulk_window) == (80, 254, 1700)


def test_what_the_largest_parts_of_an_answer_are():
    """The settings import nothing of the rooms that make them."""
    assert config._THUMBNAIL_BYTES == thumbnails.MAX_BYTES
    embedding = convert.embedding(np.ones(config.MAX_DIMENSION, np.float32), "0" * 64)
    result = embedding_service_pb2.EmbedTextResult(embedding=embedding, text_truncated=True)
    assert embedding_service_pb2.EmbedTextResponse(results=[result]).ByteSize() <= config._EMBEDDING_BYTES


def test_the_first_that_is_given_wins(monkeypatch, tmp_path):
    file = tmp_path / "clipseek.toml"
    file.write_text('text_batch = 1\nvision_batch = 1\nbundles = ["a"]\nthreads = 1\n')
    monkeypatch.setenv("CLIPSEEK_TEXT_BATCH", "2")
    monkeypatch.setenv("CLIPSEEK_VISION_BATCH", "2")
    monkeypatch.setenv("CLIPSEEK_BUNDLES", "b,c")
    monkeypatch.setenv("CLIPSEEK_CONFIG", str(file))
    settings = load("--text-batch", "3")
    assert (settings.text_batch, settings.vision_batch, settings.threads) == (3, 2, 1)
    assert settings.bundles == [Path("b"), Path("c")]


def test_what_is_printed_can_be_read_again(tmp_path):
    settings = load("--milvus-uri", "http://m:1", "--milvus-password", "secret", "--text-batch", "3")
    text = settings_as_toml(settings)
    assert "secret" not in text
    file = tmp_path / "printed.toml"
    file.write_text(text)
    again = load("--config", str(file), "--milvus-password", "secret")
    assert again.model_dump() == settings.model_dump()


@pytest.mark.parametrize("uri", ["http://root:pa55w0rd@m:1", "https://root:pa55/w0rd@m:1", "http://pa55w0rd@m:1"])
def test_a_password_in_an_address_is_not_printed(uri):
    text = settings_as_toml(load("--milvus-uri", uri))
    assert "pa55" not in text
    assert "w0rd" not in text
    assert "# milvus_uri is set and not shown\n" in text


def test_a_misspelt_variable_is_named(monkeypatch, capsys):
    monkeypatch.setenv("CLIPSEEK_MAX_TOPK", "4")
    monkeypatch.setenv("CLIPSEEK_PORT_50051_TCP", "tcp://10.0.0.1:50051")
    load()
    assert capsys.readouterr().err == "clipseek-server: CLIPSEEK_MAX_TOPK is no setting and does nothing\n"
