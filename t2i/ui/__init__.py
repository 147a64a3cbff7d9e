"""The page of `t2i ui`: draw from prompts, watch a run, start and stop a training. Needs the extra t2i[ui] (Gradio)."""
