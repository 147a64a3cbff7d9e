"""The page: two tabs over drawing.py and watching.py, laid out by Gradio. Errors are the command line's lines."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from t2i.errors import UserError
from t2i.models import list_architectures
from t2i.training.scoring import SCORES
from t2i.ui import drawing, watching

TITLE = "t2i"
SECONDS = 3.0  # between two looks at a run
# System fonts: a page on a machine without a network waits for none.
THEME = gr.themes.Default(
    primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
)
CSS = """
.gradio-container { width: 100%; max-width: 1200px !important; margin: 0 auto; }
#gallery .grid-wrap { min-height: 0; max-height: none; }
#gallery img, #samples img { image-rendering: pixelated; }
footer { display: none !important; }
"""
NO_TRAINING = "Training is off: other people can reach this page. `--allow-training` with a password turns it on."


def build(models: drawing.Models, trainings: watching.Trainings, training_allowed: bool = True) -> gr.Blocks:
    """The page. models: what can be drawn with; trainings: what the second tab starts and stops."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown("# t2i\nImages from prompts by a small GAN: one pass an image, another seed another image.")
        with gr.Tabs():
            with gr.Tab("Draw"):
                lists = [(_draw_tab(models), models.names)]
            with gr.Tab("Mix"):
                lists += [(_between_tab(models), models.names)]
            with gr.Tab("Training"):
                run, data = _training_tab(trainings, models.files, training_allowed)
                lists += [(run, lambda: watching.list_runs(trainings.runs)), (data, watching.data_sets)]
        for dropdown, choices in lists:
            _look_anew(page, dropdown, choices)
    return page


def _look_anew(page: gr.Blocks, dropdown: gr.Dropdown, choices: Callable[[], list[str]]) -> None:
    """What a list offers is looked for whenever it is opened, and its first is chosen whenever the page is."""

    def first() -> Any:
        found = choices()
        return gr.Dropdown(choices=found, value=found[0] if found else None)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    page.load(first, None, dropdown, **quiet)
    dropdown.focus(lambda: gr.Dropdown(choices=choices()), None, dropdown, **quiet)


def one_line_errors(work: Callable) -> Callable:
    """An error that a user can cause is shown as its line, without a traceback."""

    @functools.wraps(work)
    def guarded(*given: Any) -> Any:
        try:
            return work(*given)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return guarded


# ------------------------------------------------------------------------------------------------- drawing


def _model(models: drawing.Models) -> gr.Dropdown:
    names = models.names()
    return gr.Dropdown(
        names, value=names[0], label="Model", elem_id="model", allow_custom_value=models.any_folder,
        info="A run (its newest snapshot), a snapshot RUN@N, or emoji, the built-in model"
        + ("; or type a folder." if models.any_folder else "."),
    )  # fmt: skip


def _truncation() -> gr.Slider:
    return gr.Slider(
        0, 1.25, 1.0, step=0.05, label="Truncation",
        info="1: as varied as trained; towards 0 the typical image of a prompt.",
    )  # fmt: skip


def _image(name: str, **how: Any) -> gr.Image:
    """An image that the page shows and does not ask for."""
    return gr.Image(
        show_label=False, type="filepath", interactive=False, elem_id=name, min_width=280,
        buttons=["download", "fullscreen"], **how,
    )  # fmt: skip


def _draw_tab(models: drawing.Models) -> gr.Dropdown:
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            model = _model(models)
            prompts = gr.Textbox("a red apple", label="Prompts, one a line", lines=3, elem_id="prompts")
            seeds = gr.Textbox("0-3", label="Seeds", info="Numbers and ranges: 0-7,12.", elem_id="seeds")
            truncation = _truncation()
            with gr.Row():
                button = gr.Button("Draw", variant="primary", elem_id="draw")
                more = gr.Button("Next seeds", elem_id="next")
        with gr.Column(scale=3, min_width=280):
            gallery = gr.Gallery(
                show_label=False, columns=4, object_fit="contain", height="auto", elem_id="gallery",
                buttons=["download", "download_all", "fullscreen"], interactive=False,
            )  # fmt: skip
            command = gr.Code(label="The same on the command line", language="shell", elem_id="command", lines=1)

    def draw(model: str, prompts: str, seeds: str, truncation: float) -> tuple[list, str]:
        drawn = drawing.draw(models, model, prompts, seeds, truncation, gr.Warning)
        return drawn.files, drawn.command

    def draw_more(model: str, prompts: str, seeds: str, truncation: float) -> tuple[str, list, str]:
        later = drawing.next_seeds(seeds)
        return later, *draw(model, prompts, later, truncation)

    given = [model, prompts, seeds, truncation]
    button.click(one_line_errors(draw), given, [gallery, command], api_name="draw")
    seeds.submit(one_line_errors(draw), given, [gallery, command], api_visibility="private")
    more.click(one_line_errors(draw_more), given, [seeds, gallery, command], api_visibility="private")
    return model


def _between_tab(models: drawing.Models) -> gr.Dropdown:
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            model = _model(models)
            first = gr.Textbox("a red apple", label="From", elem_id="from")
            last = gr.Textbox("a green leaf", label="To", elem_id="to")
            seeds = gr.Textbox("0-3", label="Seeds", info="An image each, side by side.")
            steps = gr.Slider(2, 48, 12, step=1, label="Steps")
            truncation = _truncation()
            button = gr.Button("Draw", variant="primary", elem_id="draw-between")
        with gr.Column(scale=3, min_width=280):
            film = _image("film", format="gif")
            command = gr.Code(label="The same on the command line", language="shell", lines=1)

    def draw(model: str, first: str, last: str, seeds: str, steps: int, truncation: float) -> tuple[str, str]:
        drawn = drawing.between(models, model, (first, last), seeds, steps, truncation, gr.Warning)
        return drawn.files[0][0], drawn.command

    given = [model, first, last, seeds, steps, truncation]
    button.click(one_line_errors(draw), given, [film, command], api_name="between")
    return model


# ------------------------------------------------------------------------------------------------ training


def _training_tab(trainings: watching.Trainings, files: Path, allowed: bool) -> tuple[gr.Dropdown, gr.Dropdown]:
    runs = watching.list_runs(trainings.runs)
    run = gr.Dropdown(runs, value=runs[0] if runs else None, label="Run", elem_id="run")
    headline = gr.Markdown(elem_id="headline")
    with gr.Row():
        stop = gr.Button("Stop", size="sm", elem_id="stop", interactive=allowed)
        resume = gr.Button("Resume", size="sm", elem_id="resume", interactive=allowed)
    with gr.Row():
        plot = _image("losses")
        samples = _image("samples")
    with gr.Accordion("Scores and log", open=False):
        scores = gr.Dataframe(headers=["images seen", *SCORES], label="Scores (--eval-every)", interactive=False)
        log = gr.Textbox(label="log.txt", lines=8, interactive=False)
    with gr.Accordion("Start a training", open=allowed and not runs):
        if not allowed:
            gr.Markdown(NO_TRAINING)
        sets = watching.data_sets()
        with gr.Row():
            data = gr.Dropdown(
                sets, value=sets[0] if sets else None, label="Data set", info="Made by t2i prepare.", elem_id="data",
                allow_custom_value=allowed, scale=3,
            )  # fmt: skip
            arch = gr.Dropdown(list_architectures(), value="stylegan2", label="Architecture", elem_id="arch")
            minutes = gr.Number(30, label="Minutes", minimum=0, elem_id="minutes")
        start = gr.Button("Start", variant="primary", elem_id="start", interactive=allowed)

    shown = [headline, plot, samples, scores, log]

    def look(run: str | None) -> list[Any]:
        if not run:
            return ["no run yet: start one below, or with `t2i train`", None, None, None, ""]
        seen = watching.look(run, files)
        plot, samples = (str(path) if path else None for path in (seen.plot, seen.samples))
        return [seen.headline, plot, samples, seen.scores or None, seen.log]

    def choose(run: str) -> list[Any]:
        return [gr.Dropdown(choices=watching.list_runs(trainings.runs), value=run), *look(run)]

    def begin(data: str, arch: str, minutes: float | None) -> list[Any]:
        return choose(trainings.start(data, arch, minutes or None))

    def go_on(run: str, minutes: float | None) -> list[Any]:
        return choose(trainings.resume(run, minutes or None))

    def end(run: str) -> None:
        trainings.stop(run)
        gr.Info("it stops at its next step, with a checkpoint")

    run.change(one_line_errors(look), run, shown, show_progress="hidden", api_visibility="private")
    gr.Timer(SECONDS).tick(one_line_errors(look), run, shown, show_progress="hidden", api_visibility="private")
    if allowed:  # a button that is off on the page has no way in from outside either
        start.click(one_line_errors(begin), [data, arch, minutes], [run, *shown], api_visibility="private")
        resume.click(one_line_errors(go_on), [run, minutes], [run, *shown], api_visibility="private")
        stop.click(one_line_errors(end), run, None, api_visibility="private")
    return run, data
