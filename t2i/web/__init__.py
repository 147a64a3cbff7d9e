"""A model as a static folder that draws in the browser, without a server: export.py writes it, page/ is its page."""
