"""docs/examples: the notebook on a small COCO that a server here gives out, and the script on a folder."""

import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_encoder")]
LEFT_OUT = {"install": "t2i is here already", "page": "it serves until it is stopped, to the whole world"}


@pytest.fixture
def coco_site(tmp_path):
    """A server with 40 images and their annotations where COCO's has them; its address."""
    site = tmp_path / "site"
    (site / "train2017").mkdir(parents=True)
    (site / "annotations").mkdir()
    images, captions = [], []
    for number in range(40):
        name = f"{number:012d}.jpg"
        Image.new("RGB", (70, 50), (number * 6, 80, 255 - number * 6)).save(site / "train2017" / name)
        images.append({"id": number, "file_name": name, "width": 70, "height": 50})
        captions.append({"id": number, "image_id": number, "caption": f"a table with {number} apples"})
    document = json.dumps({"images": images, "annotations": captions})
    with zipfile.ZipFile(site / "annotations" / "annotations_trainval2017.zip", "w") as packed:
        packed.writestr("annotations/captions_train2017.json", document)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    handler.log_message = lambda *arguments: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_notebook_runs_from_top_to_bottom(coco_site, here, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLES / "coco.ipynb", as_version=4)
    nbformat.validate(notebook)
    tags = [tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])]
    assert tags == ["install", "parameters", "page"]
    notebook.cells = [cell for cell in notebook.cells if not LEFT_OUT.keys() & set(cell.metadata.get("tags", []))]
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source += f'\nSITE, SHARE, RESOLUTION, MINUTES = "{coco_site}", 2, 16, 0.05'
    for cell in notebook.cells:  # the command of this environment, wherever a notebook's shell would look
        cell.source = cell.source.replace("!t2i ", f"!{sys.executable} -m t2i ")
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(here)}}
    ).execute()
    said = "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "20 images, 20 captions" in said and "wrote out.png" in said and "wrote training.gif" in said
    assert len(list((here / "runs").iterdir())) == 1 and "resumed at" in said
    assert Image.open("sheet.png").size[0] > 300


def test_the_script_trains_on_a_folder_and_draws(here):
    for number in range(12):
        Image.new("RGB", (80, 64), (number * 20, 90, 30)).save(here / f"{number}.png")
        (here / f"{number}.txt").write_text(f"a table in colour {number}\n")
    folder = here / "pictures"
    folder.mkdir()
    for path in (*here.glob("*.png"), *here.glob("*.txt")):
        shutil.move(path, folder)
    command = [sys.executable, EXAMPLES / "own_folder.py", "pictures", "a table", "0.1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "images" in done.stdout
    assert [Image.open(f"own-{seed}.png").size for seed in range(4)] == [(64, 64)] * 4
