"""Whatever a document, a link or a tar says: `prepare` opens nothing outside its source and its output.

An audit hook, in the command and in its workers, sees every open(), listing, rename, connection and started program.
It comes in as a sitecustomize module: hooks are not inherited by programs that Python starts.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from mutations import HOSTILE_NAMES, encode, scene
from prepare_driver import HERE, start
from test_hostile_documents import IMAGE, coco_document

import t2i

HOOK = """
import json, os, sys
_log = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
_FILES = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link",
          "os.truncate", "os.chmod", "os.utime", "shutil.rmtree", "shutil.copyfile", "shutil.move", "sqlite3.connect"}
_OTHERS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.startfile", "socket.getaddrinfo",
           "urllib.Request", "ftplib.connect", "smtplib.connect", "http.client.connect"}
def _hook(event, arguments):
    if event in _FILES and isinstance(arguments[0], (str, bytes)):
        path = os.fsdecode(arguments[event == "os.symlink"])  # the link, not what it points to
        line = [event, os.getpid(), os.path.realpath(path)] if "\\0" not in path else [event, os.getpid(), path]
    elif event in _OTHERS:
        line = [event, os.getpid(), repr(arguments)]
    else:
        return
    os.write(_log, json.dumps(line).encode() + b"\\n")
sys.addaudithook(_hook)
"""
SYSTEM = ("/dev/null", "/dev/urandom", "/proc/", "/usr/share/zoneinfo/", "/etc/localtime", "/etc/mime.types")


@pytest.fixture
def place(tmp_path):
    """hook/, tmp/, home/; data/ with the sources; and secret.png outside of them, to be left alone."""
    for name in ("hook", "tmp", "home", "data", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    (tmp_path / "secret.png").write_bytes(encode(scene(24, 24), "PNG"))
    (tmp_path / "secret.txt").write_text("a secret")
    return tmp_path


def environment(place):
    return {
        "AUDIT_LOG": str(place / "log"), "TMPDIR": str(place / "tmp"), "HOME": str(place / "home"),
        "PYTHONPATH": os.pathsep.join(map(str, (place / "hook", HERE, HERE.parent, Path(t2i.__file__).parent.parent))),
    }  # fmt: skip


def links(root, place):
    """Links in a source: out of it to a file, to a folder, by a chain and by an absolute path; and a good one."""
    for name in ("a.png", "sub/b.png", "c.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(IMAGE)
    (root / "link.png").symlink_to("../" * len(root.relative_to(place).parts) + "secret.png")
    (root / "absolute.png").symlink_to(place / "secret.png")
    (root / "chain.png").symlink_to("link.png")
    (root / "up").symlink_to(place)
    (root / "good.png").symlink_to("sub/b.png")
    return root


NAMES = (*HOSTILE_NAMES, "absolute.png", "chain.png", "up/secret.png", "sub/../link.png", "good.png")


def cases(place):
    """(the arguments of t2i prepare, ...), as prepare_driver.calls takes them, and what each should end with."""
    root = links(place / "data" / "coco", place)
    made = []
    for number, name in enumerate(NAMES):
        document = coco_document()
        for image, file in zip(document["images"], ("a.png", name, "sub/b.png")):
            image["file_name"] = file
        (root / f"{number}.json").write_text(json.dumps(document))
        made.append([["--images", str(root), "--annotations", str(root / f"{number}.json")]])
        folder = links(place / "data" / f"folder{number}", place)
        rows = [{"file_name": file, "text": f"caption {file[:40]}"} for file in ("a.png", name, "sub/b.png")]
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        made.append([["--imagefolder", str(folder)]])
    # Links that take a file's place after the document has been checked.
    for number, (link, target) in enumerate((("c.png", place / "secret.png"), ("sub/b.png", "../../../secret.png"))):
        document = coco_document()
        for image, file in zip(document["images"], ("a.png", link, "good.png")):
            image["file_name"] = file
        (root / f"late{number}.json").write_text(json.dumps(document))
        arguments = ["--images", str(root), "--annotations", str(root / f"late{number}.json")]
        made.append([arguments, str(root / link), str(target)])
    tars = place / "data" / "tars"
    tars.mkdir()
    with tarfile.open(tars / "0.tar", "w") as tar:
        for number, name in enumerate(("a", "../../../secret", "/abs", f"{place}/secret", "up/x")):
            add(tar, f"{name}{number}.png", IMAGE)
            add(tar, f"{name}{number}.txt", b"a caption")
        kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
        for number, kind in enumerate(kinds):
            add(tar, f"kind{number}.png", b"", kind, f"{place}/secret.png")
            add(tar, f"kind{number}.txt", b"", kind, f"{place}/secret.txt")
    made.append([["--shards", str(tars / "0.tar")]])
    options = ["--resolution", "16", "--workers", "2", "--max-skipped", "1", "--overwrite"]
    return [
        [["prepare", *arguments, *options, "--out", str(place / "out" / "set")], *link] for arguments, *link in made
    ]


def add(tar, name, data, kind=tarfile.REGTYPE, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, len(data), target
    tar.addfile(member, io.BytesIO(data))


def allowed(place):
    # The checkout or site-packages too: it is in PYTHONPATH, and the interpreter lists every folder of that.
    libraries = {sys.prefix, sys.base_prefix, str(Path(t2i.__file__).parent.parent), str(HERE.parent)}
    libraries |= {os.path.realpath(path) for path in sys.path if path}
    own = [str(place / name) for name in ("data", "out", "tmp", "home", "hook", "log", "calls.json")]
    return [*(os.path.realpath(path) for path in (*libraries, *own)), *SYSTEM]


def is_allowed(path, folders):
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


@pytest.mark.slow
def test_nothing_outside_is_opened(place):
    made = cases(place)
    (place / "calls.json").write_text(json.dumps(made))
    before = sorted(path.name for path in place.iterdir())
    process = start("calls", place / "calls.json", environment=environment(place), cwd=place / "home")
    said, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    codes = [int(line) for line in said.splitlines() if re.fullmatch("[012]", line)]
    refused = errors.splitlines()
    assert all(line.startswith("t2i: ") for line in refused), errors
    assert len(codes) == len(made) and codes.count(1) == len(refused) > len(NAMES), list(zip(codes, made))
    assert codes[-3:] == [0, 0, 0], refused[-3:]  # late links and tars cost their images only
    assert codes[2 * NAMES.index("good.png")] == 0

    log = [json.loads(line) for line in (place / "log").read_text().splitlines()]
    folders = allowed(place)
    strangers = [line for line in log if line[0] in ("open",) or line[0].startswith(("os.", "shutil."))]
    strangers = [line for line in strangers if not is_allowed(line[2], folders)]
    assert strangers == []
    started = [line for line in log if line[0] in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")]
    started = [line for line in started if "'/sbin/ldconfig', '-p'" not in line[2]]  # torch's CUDA bindings, at import
    connected = [line for line in log if line[0].startswith(("socket.", "urllib.", "http."))]
    assert started == [] and connected == []

    # It does see: the workers' images, and an open() of the secret.
    images = {line[1] for line in log if line[2].endswith("/a.png")}
    assert images and process.pid not in images
    assert not any("/secret." in line[2] for line in log)
    probe = [sys.executable, "-c", "import sys; open(sys.argv[1])", str(place / "data" / "coco" / "link.png")]
    subprocess.run(probe, check=True, env={**os.environ, **environment(place)})
    assert str(place / "secret.png") in (place / "log").read_text()
    assert sorted(path.name for path in place.iterdir()) == sorted([*before, "log"]), "something was extracted"


@pytest.mark.slow
def test_nothing_outside_is_opened_by_libraries_in_c_either(place):
    """Every system call that opens a file, by strace: what pyarrow, libtiff and the like do is no Python event."""
    made = [case for case in cases(place) if len(case) == 1]  # what was a link when is not known afterwards
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    folder = links(place / "data" / "parquet", place)
    for name in ("link.png", "a.png"):
        table = pyarrow.table({"file_name": [name, "sub/b.png"], "text": ["one", "two"]})
        parquet.write_table(table, folder / "metadata.parquet")
        made.append([[*made[0][0][:1], "--imagefolder", str(folder), *made[0][0][5:]]])
        folder = shutil.copytree(folder, place / "data" / f"parquet-{name}", symlinks=True)
    (place / "calls.json").write_text(json.dumps(made))
    if not shutil.which("strace"):
        pytest.skip("there is no strace here")
    trace = ["strace", "-f", "-qq", "-e", "trace=open,openat,openat2,creat,execve,connect", "-e", "signal=none"]
    trace += ["-o", str(place / "trace"), sys.executable, "-c", "import prepare_driver; prepare_driver.calls()"]
    done = subprocess.run(
        [*trace, str(place / "calls.json")], env={**os.environ, **environment(place)}, capture_output=True, text=True,
        cwd=place / "home",
    )  # fmt: skip
    if "PTRACE" in done.stderr or "ptrace" in done.stderr:
        pytest.skip("strace is not allowed here")
    assert done.returncode == 0, done.stderr
    opened = re.findall(r'(?:open|openat|openat2|creat)\((?:AT_FDCWD, )?"([^"]*)"', (place / "trace").read_text())
    libraries = ("/lib", "/lib64", "/usr", "/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/ssl", "/etc/locale.alias")
    folders = [*allowed(place), *libraries, "/sys", "/dev/shm"]
    assert any(path.endswith("/a.png") for path in opened) and len(opened) > 1000
    strangers = {path for path in opened if not is_allowed(os.path.realpath(path), folders)}
    assert strangers == set()
    assert not any("/secret." in os.path.realpath(path) for path in opened)
    print(f"{len(opened)} files opened")
