"""What `t2i export --format web` wrote, in a real browser: it draws what the pipeline draws."""

import contextlib
import functools
import http.server
import io
import json
import shutil
import subprocess
import threading

import numpy as np
import PIL.Image
import pytest
from browser import CHROMIUM, FLAGS, MARKS, PATIENCE
from shape_captions import PROMPTS
from untrained import pipeline, trained_encoder

from t2i.models import list_architectures
from t2i.pipeline import TextToImagePipeline
from t2i.web.export import export_web
from t2i.web.runtime import ARCHIVE, VERSION, read_runtime

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = MARKS


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The npm package onnxruntime-web, as npm gives it."""
    folder = tmp_path_factory.mktemp("npm")
    if shutil.which("npm") is None:
        pytest.skip("there is no npm here, which fetches onnxruntime-web: apt-get install npm")
    command = ["npm", "pack", f"onnxruntime-web@{VERSION}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"npm cannot fetch onnxruntime-web: {done.stderr.strip().splitlines()[-1:]}")
    return folder / ARCHIVE


@contextlib.contextmanager
def serving(folder):
    """A plain web server, as python -m http.server; its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@contextlib.contextmanager
def visiting(browser, folder, **how):
    """The page once its model is loaded; it asks no other host for anything, and its console has no errors."""
    context = browser.new_context(accept_downloads=True, **how)
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.set_default_timeout(PATIENCE)
    with serving(folder) as address:
        page.on("request", lambda request: None if request.url.startswith((address, "blob:", "data:"))
                else wrong.append(request.url))  # fmt: skip
        page.goto(address)
        page.get_by_text("ms an image").wait_for()
        yield page
        context.close()
    assert wrong == []


def draw(page, prompt, seed, truncation):
    """The PNG that is downloaded after a click on Draw, uint8 [R, R, 3], and its name."""
    page.fill("#prompt", prompt)
    page.fill("#seed", str(seed))
    page.evaluate("([value]) => (document.querySelector('#truncation').value = value)", [truncation])
    page.click("#draw")  # the status says "drawing" before the click returns
    page.get_by_text("ms an image").wait_for()
    with page.expect_download() as found:
        page.get_by_role("button", name="PNG").click()
    with PIL.Image.open(io.BytesIO(found.value.path().read_bytes())) as image:
        return np.asarray(image.convert("RGB")), found.value.suggested_filename


def assert_draws_the_same(page, pipe, prompts, seeds=(0, 7, 2**32 - 1), truncations=(1, 0.5, 0)):
    for number, prompt in enumerate(prompts):
        seed, truncation = seeds[number % len(seeds)], truncations[number // len(seeds) % len(truncations)]
        theirs, _ = draw(page, prompt, seed, truncation)
        ours = pipe(prompt, seeds=[seed], truncation_psi=truncation, output_type="np").images[0]
        difference = np.abs(theirs.astype(int) - ours).max()
        assert difference <= 2, (prompt, seed, truncation, difference)
        assert ours.std() > 1


@pytest.mark.parametrize("arch", list_architectures())
def test_every_architecture_draws_what_the_pipeline_draws(arch, package, browser, tmp_path):
    pipe = pipeline(arch, trained_encoder())
    pipe.description.training["prompts"] = ["a red <b>circle</b>"]
    names = export_web(pipe, tmp_path, read_runtime(package))
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == sorted(names) and "onnxruntime/LICENSE" in names
    with visiting(browser, tmp_path) as page:
        assert_draws_the_same(page, pipe, [*PROMPTS, "a red [PAD] circle", "猫 🍎", *PROMPTS, "x", *PROMPTS])
        assert page.locator("#prompts").inner_text() == "a red <b>circle</b>"


@pytest.fixture(scope="module")
def emoji(package, tmp_path_factory):
    """The built-in model as a web page."""
    folder = tmp_path_factory.mktemp("emoji")
    export_web(TextToImagePipeline.from_pretrained("emoji", "cpu"), folder, read_runtime(package))
    return folder


def test_the_built_in_model_draws_what_the_pipeline_draws(emoji, browser):
    assert sum(path.stat().st_size for path in emoji.rglob("*") if path.is_file()) < 90e6
    pipe = TextToImagePipeline.from_pretrained("emoji", "cpu")
    odd = ["zebra with a hat, in the snow", "¡Qué día más BONITO!", "猫 🍎", "a [MASK] on a table", "very " * 200]
    with visiting(browser, emoji) as page:
        assert_draws_the_same(page, pipe, [*pipe.known_prompts, *odd])


def test_eight_seeds_the_next_seed_a_download_and_errors(emoji, browser):
    with visiting(browser, emoji) as page:
        assert f"{json.loads((emoji / 'model.json').read_text())['bytes'] / 1e6:.0f} MB" in page.inner_text("#about")
        page.click("#eight")
        page.get_by_text("8 of 8 images").wait_for()
        captions = page.locator("figcaption").all_inner_texts()
        assert [text.split()[:2] for text in captions] == [["seed", str(seed)] for seed in range(8)]
        page.click("#next")
        page.get_by_text("ms an image").wait_for()
        assert page.input_value("#seed") == "1" and page.locator("canvas").count() == 1
        page.get_by_role("button", name="a purple heart").click()
        page.get_by_role("img", name="a purple heart, seed 1").wait_for()
        assert draw(page, " A purple  heart!", 3, 1)[1] == "a-purple-heart-3.png"
        assert "cut" not in page.inner_text("#status")
        draw(page, "very " * 200, 3, 1)
        assert "the prompt was cut" in page.inner_text("#status")
        for prompt, seed, words in (
            ("  ", "0", "the prompt is empty"),
            ("x", "-1", "a seed is"),
            ("x", "0.5", "a seed is"),
        ):
            page.fill("#prompt", prompt)
            page.fill("#seed", seed)
            page.click("#draw")
            assert words in page.locator("#status.wrong").inner_text()


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_wider_than_the_window(emoji, browser, width):
    with visiting(browser, emoji, viewport={"width": width, "height": 900}) as page:
        page.click("#eight")
        page.get_by_text("8 of 8 images").wait_for()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_a_model_that_is_half_there_is_one_line(package, browser, tmp_path):
    export_web(pipeline("dfgan", trained_encoder()), tmp_path, read_runtime(package))
    model = tmp_path / "model.onnx"
    model.write_bytes(model.read_bytes()[:1000])
    context = browser.new_context()
    with serving(tmp_path) as address:
        page = context.new_page()
        page.goto(address)
        wrong = page.locator("#status.wrong")
        wrong.wait_for(timeout=PATIENCE)
        assert "the model cannot be loaded: model.onnx ends after 1000 of" in wrong.inner_text()
        context.close()
