"""What no build checks: defaults in docstrings, links and code of pages, figures."""

import importlib
import inspect
import math
import re
import shlex
import sys
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


# Figures of others, as their papers report them.
PUBLISHED = {
    ".8838": "IMC-GAE on Flixster (Shen et al., 2021)",
    ".7211": "IMC-GAE on Douban",
    "18.70": "IMC-GAE on Yahoo Music",
    ".8808": "myFM, ordered probit, on u1",
    ".8833": "myFM, Gaussian, on u1",
    ".8806": "myFM on u3",
    ".887": "GHRS on u1",
    ".7294": "HR@10 of a matrix factorisation (Rendle et al., 2020)",
    ".4523": "its NDCG@10",
    ".7093": "HR@10 of NeuMF (Rendle et al., 2020)",
    ".4349": "its NDCG@10",
}
NUMBER = re.compile(r"(?<![\w./])\d*\.\d+(?![\w/]|\.\w)")


def unmeasured(text, results, least=1):
    """Numbers of a text with so many decimals that no result or paper has."""
    texts = [path.read_text() for path in results]
    measured = {float(n) for result in texts for n in NUMBER.findall(result)}
    decimals = {n: len(n.partition(".")[2]) for n in NUMBER.findall(text)}
    return {
        number
        for number, n in decimals.items()
        if n >= least
        and float(number) not in map(float, PUBLISHED)
        and float(number) not in {round(x, n) for x in measured}
    }


def test_figures_of_the_readme_are_those_of_results():
    readme = (DOCS.parent / "README.md").read_text()
    assert len(re.findall(r"\.\d{3}", readme)) > 90
    assert unmeasured(readme, DOCS.glob("results/*.csv"), least=3) == set()


# Pages without figures that are in no result.
MEASURED_PAGES = [
    *("benchmarks", "networks", "evaluation", "serving", "choosing", "distributed"),
    *("exploration", "gpu", "scale"),
]


def prose(text):
    """A page without its directives, code, roles and literals."""
    indented = r"(?:(?:[ \t].*)?\n)*"
    text = re.sub(rf"^\.\. [\w-]+::.*\n{indented}", "", text, flags=re.M)
    text = re.sub(rf"::\n\n{indented}", "\n", text)
    text = re.sub(r"^>>> .*(\n.+)*", "", text, flags=re.M)
    return re.sub(r"(:[\w:]+:)?(``[^`]+``|`[^`]+`)", "", text)


@pytest.mark.parametrize("page", MEASURED_PAGES)
def test_figures_of_a_page_are_those_of_the_results_that_it_shows(page):
    text = (DOCS / f"{page}.rst").read_text()
    shown = [DOCS / name for name in re.findall(r":file: (results/.*)", text)]
    results = shown or DOCS.glob("results/*.csv")
    assert unmeasured(prose(text), results) == set()


def test_a_figure_that_was_not_measured_is_found(tmp_path):
    result = tmp_path / "result.csv"
    result.write_text("model,RMSE\nvb,.8749 ± .005\n")
    text = (
        "It has .8749, or .875 with ``reg=.3``, and myFM .8808::\n\n    1.5\n\nNot .88."
    )
    assert unmeasured(prose(text), [result]) == {".88"}


@pytest.mark.parametrize("page", MEASURED_PAGES)
def test_a_result_is_of_the_command_beside_it(page):
    """The command of the page, which is that of the run."""
    text = (DOCS / f"{page}.rst").read_text().replace("\\\n", " ")
    commands = re.findall(r"^ +(python tests/benchmarks/.*)$", text, re.M)
    runs = pd.read_csv(DOCS / "results" / "runs.csv", index_col="result")["command"]
    written = {shlex.split(command)[-1]: shlex.split(command) for command in commands}
    assert {name: shlex.split(runs[name]) for name in written} == written
    for shown in re.findall(r":file: results/(.*)\.csv", text):
        assert shown == "runs" or any(map(shown.startswith, runs.index)), shown


def test_a_run_is_kept_beside_its_tables(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(DOCS.parent / "tests" / "benchmarks")
    common = importlib.import_module("_common")
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    rows = [common.Row("RMSE", 0.87492, "≤ .88", "", "peer", 0.9), common.Row("s", 12)]
    for count in ("1", "2"):
        monkeypatch.setattr(sys, "argv", ["/a/fit.py", "two words", "-n", count])
        common.keep("fit", {"": common.table_of(rows)})
    common.keep("many", {"of": pd.DataFrame({"x": ["1"], "empty": [""]})})
    lines = (tmp_path / "fit.csv").read_text().splitlines()
    assert lines == [
        "measured,skrec,peer,peer's,ratio",
        "RMSE,0.8749,peer,0.9000,0.972",
        "s,12.00,,,",
    ]
    assert (tmp_path / "many_of.csv").read_text().splitlines() == ["x", "1"]
    runs = pd.read_csv(tmp_path / "runs.csv", index_col="result")
    assert runs.index.tolist() == ["fit", "many"]
    command = "python tests/benchmarks/fit.py 'two words' -n 2"
    assert runs.loc["fit", "command"] == command
    assert runs.loc["fit", "skrec"] == skrec.__version__


def test_every_example_has_its_place_in_the_gallery():
    names = {path.stem for path in (DOCS / "examples").glob("plot_*.py")}
    conf = (DOCS / "conf.py").read_text()
    assert {
        name for name in names if f'"{name.removeprefix("plot_")}"' not in conf
    } == set()
