"""The page in a real browser: headless Chromium, driven by Playwright."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from browser import CHROMIUM, FLAGS, MARKS, PATIENCE

from t2i.image_files import read_image_text
from t2i.locks import holder
from t2i.ui.watching import list_runs

pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = MARKS
APPEARS = {"timeout": PATIENCE}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_run, minilm_data):
    """A folder with a run and a data set."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(tiny_run, folder / "runs" / tiny_run.name)
    shutil.copytree(minilm_data, folder / "t2i-data" / "shapes-train-16")
    return folder


@contextlib.contextmanager
def serving(folder, *options):
    """`t2i ui` in a folder; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "t2i", "ui", "--no-open", "--port", str(port), *options]
    temporary = folder / f"tmp-{port}"
    temporary.mkdir()
    there = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder, env=there)
    try:
        assert process.stdout.readline().startswith("t2i ui: http://")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
        for run in list_runs(folder / "runs"):
            if at_work := holder(run):
                os.kill(at_work.pid, signal.SIGKILL)
    assert code == 130
    assert (
        list((folder / "tmp").glob("t2i-ui-*")) == [] and not (folder / "tmp" / "gradio").exists()
    )  # it leaves nothing


@pytest.fixture(scope="module")
def address(folder):
    with serving(folder) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A new user's page; whatever its console calls an error fails the test."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, accept_downloads=True)
    page, errors = context.new_page(), []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(PATIENCE)
    yield page
    context.close()
    assert [
        error for error in errors if "AbortError" not in error and "Connection errored" not in error
    ] == []  # reloads


def draw(page, prompts, seeds="0-3"):
    """Type, click, and wait for the images of this prompt."""
    page.fill("#prompts textarea", prompts)
    page.fill("#seeds input, #seeds textarea", seeds)
    page.click("#draw")
    sync_api.expect(page.locator("#command")).to_contain_text(prompts.splitlines()[0], **APPEARS)
    sync_api.expect(page.locator("#gallery .gallery-item img, #gallery .thumbnail-item img").first).to_be_visible(
        **APPEARS
    )


def download(page):
    """The first image, enlarged and downloaded."""
    page.locator("#gallery .thumbnail-item").first.click()
    with page.expect_download() as found:
        page.get_by_role("button", name="Download").or_(page.locator("#gallery a[download]")).first.click()
    return Path(found.value.path())


def expect_error(page, text):
    sync_api.expect(page.locator(".toast-body").filter(has_text=text)).to_be_visible(**APPEARS)


def test_a_prompt_is_typed_and_its_image_downloaded(address, folder, page, t2i, monkeypatch):
    monkeypatch.chdir(folder)
    page.goto(address)
    draw(page, "a red circle", "5")
    t2i("generate", "a red circle", "--seed", "5", "-o", "own.png")
    file = download(page)
    assert file.read_bytes() == Path("own.png").read_bytes()
    assert read_image_text(file)["prompt"] == "a red circle"
    page.click("#next")
    sync_api.expect(page.locator("#command")).to_contain_text("--seeds 6", **APPEARS)


def test_a_wrong_model_and_an_empty_prompt_are_the_command_lines_errors(address, page):
    page.goto(address)
    page.fill("#prompts textarea", "")
    page.click("#draw")
    expect_error(page, "no prompt")  # by now the lists of models have been looked for, which would undo a choice
    page.fill("#prompts textarea", "a table")
    page.fill("#model input", "nowhere")
    page.keyboard.press("Enter")
    page.click("#draw")
    expect_error(page, "nowhere: there is no such model folder")


def test_two_users_at_once_have_their_own_images(address, browser, page):
    other = browser.new_context().new_page()
    for user in (page, other):
        user.goto(address)
        user.wait_for_selector("#draw")
    for user, prompt in ((page, "a red circle"), (other, "a table")):
        user.fill("#prompts textarea", prompt)
        user.fill("#seeds input, #seeds textarea", "0")
    page.click("#draw")
    other.click("#draw")
    for user, prompt in ((page, "a red circle"), (other, "a table")):
        sync_api.expect(user.locator("#command")).to_contain_text(prompt, **APPEARS)
        assert read_image_text(download(user))["prompt"] == prompt
    other.context.close()


def test_prompts_are_mixed(address, page):
    page.goto(address)
    page.get_by_role("tab", name="Mix").click()
    page.fill("#from input, #from textarea", "a table")
    page.click("#draw-between")
    sync_api.expect(page.locator("#film img")).to_be_visible(**APPEARS)


def test_a_training_is_watched_stopped_and_outlives_the_page(address, page, folder):
    page.goto(address)
    page.get_by_role("tab", name="Training").click()
    headline = page.locator("#headline")
    sync_api.expect(headline).to_contain_text("stopped: 48 of 48 images", **APPEARS)
    sync_api.expect(page.locator("#losses img")).to_be_visible(**APPEARS)
    page.get_by_text("Start a training").click()
    page.fill("#minutes input", "20")
    page.click("#start")
    sync_api.expect(headline).to_contain_text("training", **APPEARS)
    page.reload()
    page.get_by_role("tab", name="Training").click()
    sync_api.expect(headline).to_contain_text("training: ", **APPEARS)
    (run,) = folder.glob("runs/00001-*")
    page.click("#stop")
    sync_api.expect(headline).to_contain_text("stopped: ", **APPEARS)
    assert "stopped by SIGINT" in (run / "log.txt").read_text()


def test_where_others_can_reach_it_a_password_is_asked_for_and_nothing_is_trained(folder, page):
    with serving(folder, "--host", "0.0.0.0", "--password", "secret") as address:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{address}/config")
        page.goto(address)
        inputs = page.locator("input")
        inputs.nth(0).fill("t2i")
        inputs.nth(1).fill("secret")
        page.get_by_role("button", name="Login").click()
        page.get_by_role("tab", name="Training").click()
        sync_api.expect(page.locator("#stop")).to_be_disabled(**APPEARS)
        page.get_by_text("Start a training").click()
        sync_api.expect(page.locator("#start")).to_be_disabled(**APPEARS)
        page.goto("about:blank")  # it would complain of the server's end


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(address, browser, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    draw(page, "a red circle\na table")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()
