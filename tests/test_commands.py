"""Commands that the README and scripts give: they work, and CI runs them."""

import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest

import skrec

ROOT = Path(__file__).parents[1]
BENCHMARKS = sorted((ROOT / "tests" / "benchmarks").glob("[!_]*.py"))


def test_the_commands_of_the_readme_are_those_of_ci():
    blocks = re.findall(
        r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S
    )
    commands = [command for block in blocks for command in block.splitlines()]
    assert len(commands) == 3
    in_order = [
        line
        for line in (ROOT / ".ci" / "run").read_text().splitlines()
        if line in commands
    ]
    assert in_order == commands


def test_the_recipe_of_conda_has_the_version_and_the_requirements_of_the_package():
    recipe = (ROOT / ".ci" / "recipe.yaml").read_text()
    assert re.search(r"version: (.*)", recipe)[1] == skrec.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {f"python{project['requires-python']}", *project["dependencies"]}
    run = recipe[recipe.index("  run:") : recipe.index("tests:")]
    found = {f"{name}{bound}" for name, bound in re.findall(r"- (\S+) (\S+)", run)}
    assert found == {name.replace("torch", "pytorch") for name in required}


@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda script: script.stem)
def test_a_benchmark_says_how_it_is_run(script, monkeypatch, capsys):
    monkeypatch.syspath_prepend(script.parent)
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
    assert f"usage: {script.name}" in capsys.readouterr().out
