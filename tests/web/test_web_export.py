"""`t2i export --format web` without a browser: the package onnxruntime-web, the files, errors in one line."""

import base64
import hashlib
import io
import json
import tarfile

import pytest
from folders import listing
from untrained import pipeline, trained_encoder

from t2i.errors import UserError
from t2i.text.encoders import load_encoder
from t2i.web import export, runtime
from t2i.web.export import export_web
from t2i.web.runtime import ARCHIVE, FILES, VERSION, read_runtime

CONTENTS = {name: f"content of {name}".encode() for name in FILES}


@pytest.fixture
def archive(here, monkeypatch):
    """A package of the right form, at an address without a server, and an empty cache."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as package:
        for name, content in CONTENTS.items():
            member = tarfile.TarInfo(f"package/{FILES[name]}")
            member.size = len(content)
            package.addfile(member, io.BytesIO(content))
    path = here / "registry.tgz"
    path.write_bytes(buffer.getvalue())
    digest = base64.b64encode(hashlib.sha512(buffer.getvalue()).digest()).decode()
    monkeypatch.setattr(runtime, "INTEGRITY", f"sha512-{digest}")
    monkeypatch.setattr(runtime, "ADDRESS", path.as_uri())
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    return path


def test_it_is_fetched_once(archive, here):
    said = []
    assert read_runtime(say=said.append) == CONTENTS
    assert len(said) == 1 and "fetching onnxruntime-web" in said[0]
    archive.unlink()
    assert read_runtime(say=said.append) == CONTENTS and len(said) == 1
    (kept,) = (here / "cache" / "t2i").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(UserError, match="cannot be fetched"):  # what is damaged is not taken
        read_runtime()


def test_what_is_fetched_is_checked(archive, here, monkeypatch):
    monkeypatch.setattr(runtime, "INTEGRITY", "sha512-another")
    with pytest.raises(UserError, match="is not the npm package"):
        read_runtime()
    assert not (here / "cache").exists()


def test_a_package_is_given_as_an_archive_or_as_a_folder(archive, here):
    assert read_runtime(archive) == CONTENTS
    with tarfile.open(archive) as package:
        package.extractall(here, filter="data")
    about = here / "package" / "package.json"
    about.write_text(json.dumps({"name": "onnxruntime-web", "version": VERSION}))
    assert read_runtime(here / "package") == CONTENTS
    about.write_text(json.dumps({"name": "onnxruntime-web", "version": "1.0.0"}))
    with pytest.raises(UserError, match=r"this is onnxruntime-web 1\.0\.0, not onnxruntime-web"):
        read_runtime(here / "package")


def test_without_a_network_it_says_how_to_get_it_by_hand(tiny_run, archive, refused):
    archive.unlink()
    line = refused(1, f"run npm pack onnxruntime-web@{VERSION}", "export", tiny_run, "--format", "web")
    assert f"--runtime {ARCHIVE}" in line


def test_a_runtime_that_is_not_there_or_another_file(tiny_run, archive, refused, here):
    (here / "other.tgz").write_bytes(b"something else")
    for name, words in (
        ("nowhere.tgz", "No such file"),
        ("other.tgz", "is not the npm package"),
        (".", "package.json"),
    ):
        refused(1, words, "export", tiny_run, "--format", "web", "--runtime", name)


def test_a_page_that_is_there_is_whole(here, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "onnx_model", lambda pipe, half: b"the model")
    pipe = pipeline("dfgan", trained_encoder())
    names = export_web(pipe, here, CONTENTS)
    assert sorted(names) == sorted(path for path, size in listing(here).items() if size >= 0)
    assert json.loads((here / "model.json").read_text())["bytes"] == 9
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(UserError, match="no space left"):
            export_web(pipe, here, CONTENTS)
    assert sorted(set(names) - set(listing(here))) == ["index.html"]
    assert export_web(pipe, here, CONTENTS) == names and (here / "index.html").is_file()


def test_an_encoder_with_another_tokenizer_is_one_line(tiny_bert, archive):
    with pytest.raises(UserError, match="has a tokenizer that the page in the browser does not have") as caught:
        export_web(pipeline("dfgan", load_encoder(str(tiny_bert))), archive.parent / "out", CONTENTS)
    assert "\n" not in str(caught.value) and not (archive.parent / "out").exists()
