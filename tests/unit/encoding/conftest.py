import pytest

from models import export_bundle, make_small_clip


@pytest.fixture(scope="package")
def model_folder(tmp_path_factory):
    return make_small_clip(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="package")
def bundle(model_folder, tmp_path_factory):
    return export_bundle(model_folder, tmp_path_factory.mktemp("bundle") / "small")
