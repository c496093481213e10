"""Configuration of the documentation."""

import warnings
from pathlib import Path

from docutils import nodes
from sphinx_gallery.sorting import ExplicitOrder

import skrec

project = "skrec"
author = "The skrec developers"
project_copyright = f"2026, {author}"
release = version = skrec.__version__

extensions = [
    "matplotlib.sphinxext.plot_directive",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.extlinks",
    "sphinx-mathjax-offline",
    "numpydoc",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "examples"]
templates_path = ["_templates"]
default_role = "code"
# Quotes and dashes of code in tables stay as they are.
smartquotes = False
extlinks = {"doi": ("https://doi.org/%s", "doi:%s")}

autosummary_generate = True
# Docstrings have the types in words.
autodoc_typehints = "none"
numpydoc_show_class_members = False

# Plots are drawn from results beside the pages.
plot_working_directory = Path(__file__).parent
plot_formats = [("svg", 100)]
plot_html_show_formats = plot_html_show_source_link = False

# A page for programs that read documentation.
html_extra_path = ["llms.txt"]
html_static_path = ["_static"]
html_theme = "pydata_sphinx_theme"
html_title = f"skrec {release}"
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": False,
    # Code stands side by side on this page, and tables are wide on that one.
    "secondary_sidebar_items": {
        "**": ["page-toc"],
        "index": [],
        "migration": [],
        "benchmarks": [],
    },
}
html_sidebars = {"index": [], "getting_started": [], "api": []}

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "abort_on_example_error": True,
    "show_memory": False,
    "within_subsection_order": ExplicitOrder(
        [
            f"plot_{name}.py"
            for name in (
                *("quickstart", "search", "rating_or_list", "intervals"),
                *("cold_start", "context", "item_map", "learning_curve"),
                *("ensemble", "exploration"),
            )
        ]
        + ["*"]
    ),
}

# The page of an example shows figures; a window for them cannot open in a build.
warnings.filterwarnings("ignore", message=".*FigureCanvasAgg is non-interactive")


def without_mail(app, doctree):
    """Metrics such as NDCG@10 are no addresses."""
    for link in list(doctree.findall(nodes.reference)):
        if link.get("refuri", "").startswith("mailto:"):
            link.replace_self(nodes.Text(link.astext()))


def setup(app):
    """Connect to Sphinx."""
    app.connect("doctree-read", without_mail)
