"""What Prometheus reads tells what the server did."""

import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from clipseek import Client, InvalidArgumentError
from clipseek_server.config import Settings
from clipseek_server.errors import StartupError
from pictures import picture
from servers import ServerThread


def scrape(port: int) -> dict[tuple[str, ...], float]:
    """All samples, by name and the values of their labels in the order of the labels' names."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }


def test_what_the_server_did_is_counted(bundle, tmp_path):
    settings = Settings(listen="127.0.0.1:0", metrics_listen="127.0.0.1:0", bundles=[bundle], data_dir=tmp_path)
    with ServerThread(settings) as server, Client(server.address) as client:
        port = server.server.metrics_port
        assert port is not None
        before = scrape(port)
        client.insert(picture(1), image_id="a", collection="pets")
        for _ in range(3):
            client.search_text("a cat of metrics", collection="pets")
        with pytest.raises(InvalidArgumentError):
            client.insert(b"no picture", collection="pets")
        server.settle()
        after = scrape(port)
        model = client.info().models[0].name

    def grown(*key: str) -> float:
        return after[key] - before.get(key, 0.0)

    assert grown("clipseek_calls_total", "OK", "SearchService/Insert") == 1
    assert grown("clipseek_calls_total", "INVALID_ARGUMENT", "SearchService/Insert") == 1
    assert grown("clipseek_call_seconds_count", "SearchService/SearchByText") == 3
    assert grown("clipseek_stage_seconds_count", "inference") == 2  # the same text again costs none
    assert grown("clipseek_text_cache_lookups_total", "yes", model) == 2
    assert grown("clipseek_text_cache_lookups_total", "no", model) == 1
    assert grown("clipseek_batch_items_sum", "picture tower") == 1
    assert grown("clipseek_batch_items_sum", "text tower") == 1
    assert grown("clipseek_queue_seconds_count", "text tower") == 1
    assert grown("clipseek_request_bytes_total", "SearchService/Insert") > len(picture(1))
    assert {after[key] for key in after if key[0] == "clipseek_queue_length"} == {0.0}
    assert after["clipseek_providers", model, "CPUExecutionProvider", "0", "text"] == 1

    with pytest.raises(OSError, match="refused"):
        scrape(port)


def test_an_address_that_is_taken_is_said(bundle, tmp_path):
    settings = Settings(listen="127.0.0.1:0", metrics_listen="127.0.0.1:0", bundles=[bundle], data_dir=tmp_path / "a")
    with ServerThread(settings) as server:
        taken = settings.model_copy(
            update={"metrics_listen": f"127.0.0.1:{server.server.metrics_port}", "data_dir": tmp_path / "b"}
        )
        with pytest.raises(StartupError, match="for metrics"), ServerThread(taken):
            pass
