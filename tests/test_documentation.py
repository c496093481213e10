"""What no build checks: defaults in docstrings, links and code of pages, figures."""

import inspect
import math
import re
from pathlib import Path

import pandas as pd
import pytest

import skrec
from skrec import (
    datasets,
    distributed,
    inspection,
    metrics,
    model_selection,
    preprocessing,
)
from skrec.datasets import make_ratings

DOCS = Path(__file__).parents[1] / "docs"
LLMS = (DOCS / "llms.txt").read_text()

MODULES = [
    *(skrec, datasets, distributed, inspection, metrics, model_selection),
    preprocessing,
]


def callables():
    """Public functions, classes and their methods, by their names."""
    for module in MODULES:
        for name, value in vars(module).items():
            own = getattr(value, "__module__", "").startswith("skrec")
            if name[0] != "_" and own and callable(value):
                yield name, value
                for method, function in vars(value).items():
                    if inspect.isfunction(function) and method[0] != "_":
                        yield f"{name}.{method}", function


CALLABLES = dict(callables())


@pytest.mark.parametrize("name", CALLABLES)
def test_the_default_in_a_docstring_is_that_of_the_call(name):
    documented = re.findall(
        r"^ *(\w+(?:, \w+)*) : .*\bdefault=(.+)$", inspect.getdoc(CALLABLES[name]), re.M
    )
    parameters = inspect.signature(CALLABLES[name]).parameters
    for names, default in documented:
        for parameter in names.split(", "):
            value = eval(default, {"nan": math.nan})
            assert repr(parameters[parameter].default) == repr(value), parameter


@pytest.mark.parametrize("page", re.findall(r"\]\(([\w/]+)\.html\)", LLMS))
def test_llms_txt_links_to_pages(page):
    # The gallery is made of the examples.
    source = "examples/GALLERY_HEADER" if page == "gallery/index" else page
    assert (DOCS / f"{source}.rst").exists()


def test_llms_txt_names_all_pages_of_the_guide():
    toctrees = re.findall(r"^   (\w+)$", (DOCS / "guide.rst").read_text(), re.M)
    assert {page for page in toctrees if f"({page}.html)" not in LLMS} == set()


def test_the_code_of_llms_txt_runs():
    (code,) = re.findall(r"^```python\n(.*?)^```$", LLMS, re.M | re.S)
    names = {}
    exec(code, names)
    assert names["lists"]["user"].tolist() == ["ann", "bob"]
    assert names["rating"].shape == names["std"].shape == (1,)


def test_the_lists_of_a_csv_are_written_by_the_code_of_the_readme(
    tmp_path, monkeypatch
):
    readme = (DOCS.parent / "README.md").read_text()
    code = re.search(r"^```python\n(import pandas.*?)^```$", readme, re.M | re.S)[1]
    monkeypatch.chdir(tmp_path)
    X, y = make_ratings(30, 40, 300, random_state=0)
    named = X.assign(user=[f"user {number}" for number in X["user"]], rating=y)
    named.to_csv("ratings.csv", index=False)
    exec(code, {})
    lists = pd.read_csv("lists.csv")
    assert lists.groupby("user").size().tolist() == [10] * 30
    assert len(code.splitlines()) <= 10


@pytest.mark.parametrize("name", ["errors", "lists"])
def test_tables_of_the_readme_are_the_measured_results(name):
    lines = (DOCS.parent / "README.md").read_text().splitlines()
    path = DOCS / "results" / f"summary_{name}.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for cells in [list(table), *table.to_numpy().tolist()]:
        assert f"| {' | '.join(cells)} |" in lines


def test_errors_of_the_readme_are_those_of_a_page_or_of_a_result():
    """Numbers of three or four decimals, which a page or a result may have more of."""
    number = re.compile(r"(?<![\w./])\d*\.\d{3,}(?![\w/]|\.\w)")
    paths = [*DOCS.glob("*.rst"), *DOCS.glob("results/*.csv")]
    texts = [path.read_text() for path in paths if path.stem != "changelog"]
    measured = {figure for text in texts for figure in map(float, number.findall(text))}
    of_readme = number.findall((DOCS.parent / "README.md").read_text())
    assert len(of_readme) > 90
    for figure in of_readme:
        n_decimals = len(figure.partition(".")[2])
        assert float(figure) in {round(x, n_decimals) for x in measured}, figure


def test_every_example_has_its_place_in_the_gallery():
    names = {path.stem for path in (DOCS / "examples").glob("plot_*.py")}
    conf = (DOCS / "conf.py").read_text()
    assert {
        name for name in names if f'"{name.removeprefix("plot_")}"' not in conf
    } == set()
