"""The order of imports: estimators stand on solvers, and nothing on its neighbour."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import skrec

PACKAGE = Path(skrec.__file__).parent

# What each module may import from the package.
MAY_IMPORT = {
    "__init__": {"_mf", "_ncf"},
    "_mf": {
        "_alternating",
        "_base",
        "_conversion",
        "_gradient",
        "_interactions",
        "_networks",
        "_posterior",
        "_sides",
        "_topk",
        "_training",
        "_units",
    },
    "_ncf": {
        "_base",
        "_interactions",
        "_networks",
        "_topk",
        "_training",
        "_units",
    },
    "_training": {
        "_base",
        "_fold_in",
        "_gradient",
        "_interactions",
        "_networks",
        "_row_features",
        "_units",
    },
    "_fold_in": {"_gradient", "_networks", "_threads"},
    "_base": {
        "_descriptions",
        "_interactions",
        "_settings",
        "_sklearn",
        "_threads",
        "_topk",
        "_weights",
        "_warn",
    },
    "_conversion": {
        "_conditional",
        "_features",
        "_posterior",
        "_sides",
        "_symmetric",
        "_units",
    },
    "_alternating": {
        "_conditional",
        "_features",
        "_rules",
        "_sides",
        "_symmetric",
        "_threads",
    },
    "_rules": {"_conditional", "_features", "_sides", "_symmetric"},
    "_sides": {"_conditional", "_features", "_posterior", "_threads"},
    "_features": {"_conditional", "_symmetric"},
    "_gradient": {"_networks", "_threads", "_warn"},
    "_conditional": {"_symmetric"},
    "_descriptions": {"_interactions", "_warn"},
    "_interactions": set(),
    "metrics": {"_interactions", "_rankings", "_scorer"},
    "model_selection": {"_interactions", "_warn"},
    "_networks": {"_row_features"},
    "_posterior": {"_interactions"},
    "_rankings": {"_interactions", "_warn"},
    "_row_features": set(),
    "_scorer": {"_interactions", "_rankings"},
    "_symmetric": set(),
    "_settings": {"_threads"},
    "_sklearn": set(),
    "_threads": set(),
    "_topk": set(),
    "_units": {"_interactions"},
    "_warn": set(),
    "_weights": {"_interactions"},
    "datasets/__init__": {
        "datasets/_matrix",
        "datasets/_movielens",
        "datasets/_synthetic",
    },
    "datasets/_matrix": set(),
    "datasets/_movielens": set(),
    "datasets/_synthetic": set(),
}


def modules():
    return sorted(
        path.relative_to(PACKAGE).with_suffix("").as_posix()
        for path in PACKAGE.rglob("*.py")
    )


def imports(module):
    """(level, module, names) of every import statement of a module."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name, []


def test_every_module_has_its_place():
    assert modules() == sorted(MAY_IMPORT)


@pytest.mark.parametrize("module", sorted(MAY_IMPORT))
def test_imports_run_one_way(module):
    folder = module.rpartition("/")[0]
    prefix = f"{folder}/" if folder else ""
    imported = set()
    for level, name, names in imports(module):
        assert level <= 1, f"{module} reaches out of its folder"
        assert not name.startswith("skrec"), f"{module} imports by the absolute name"
        if level == 1:
            targets = [name] if name else names
            imported |= {prefix + target.replace(".", "/") for target in targets}
    assert imported <= MAY_IMPORT[module]


@pytest.mark.parametrize("module", sorted(MAY_IMPORT))
def test_private_names_of_sklearn_are_imported_in_one_module_alone(module):
    private = [
        (name, names)
        for level, name, names in imports(module)
        if level == 0
        and name.split(".")[0] == "sklearn"
        and any(part.startswith("_") for part in [*name.split("."), *names])
    ]
    assert not private or module == "_sklearn"


@pytest.mark.parametrize(
    "module",
    [
        "_conditional",
        "_features",
        "_sides",
        "_rules",
        "_symmetric",
        "_alternating",
        "_fold_in",
        "_gradient",
        "_networks",
        "_topk",
    ],
)
def test_solvers_know_neither_sklearn_nor_pandas(module):
    roots = {name.split(".")[0] for level, name, _ in imports(module) if level == 0}
    assert not roots & {"sklearn", "pandas", "narwhals"}


def test_import_leaves_torch_settings_and_seeds_alone():
    code = (
        "import torch, numpy as np\n"
        "state = torch.get_rng_state(), np.random.get_state()[1].copy()\n"
        "threads, grad = torch.get_num_threads(), torch.is_grad_enabled()\n"
        "import skrec\n"
        "from skrec.datasets import make_ratings\n"
        "X, y = make_ratings(20, 10, 60, random_state=0)\n"
        "for solver in ('vb', 'gibbs', 'als', 'adam'):\n"
        "    skrec.MFRegressor(2, solver=solver, random_state=0).fit(X, y).predict(X)\n"
        "skrec.NCFRegressor(2, dropout=0.5, random_state=0).fit(X, y).predict(X)\n"
        "assert torch.equal(state[0], torch.get_rng_state())\n"
        "assert (state[1] == np.random.get_state()[1]).all()\n"
        "assert threads == torch.get_num_threads()\n"
        "assert grad == torch.is_grad_enabled()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
