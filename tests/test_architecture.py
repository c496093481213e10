"""The order of imports: estimators stand on solvers, and nothing on its neighbour."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import skrec

PACKAGE = Path(skrec.__file__).parent

# The lowest floor, which all others may stand on.
GROUND = {"_data", "_interfaces", "_settings", "_sklearn", "_snapshot", "_threads"}
GROUND |= {"_deferred", "_device", "_share", "_sparse", "_storage", "_topk", "_warn"}
# Modules and folders of the package that each module or folder may import.
MAY_IMPORT = {
    "__init__": {"_dummy", "_mf", "_ncf", "_saving"},
    "_dummy": {"_base", *GROUND},
    "_mf": {"_alternating", "_base", "_conversion", "_effects", "_factors"}
    | {"_gradient", "_parameters", *GROUND},
    "_conversion": {"_alternating", "_gradient", *GROUND},
    "_factors": GROUND,
    "_effects": {"_data", "_interfaces"},
    "_ncf": {"_base", "_effects", "_gradient", "_parameters", *GROUND},
    "_base": {"_choice", "_diagram", "_forget", "_iterations", "_lists", "_rows"}
    | {"_pair_effects", "_saving", *GROUND},
    "_iterations": GROUND,
    "_saving": GROUND,
    "_forget": {"_choice", "_pair_effects", *GROUND},
    "_lists": {"_candidates", "_choice", "_explain", "_explore", "_pair_effects"}
    | GROUND,
    "_explain": {"_candidates", "_choice", "_pair_effects", *GROUND},
    "_candidates": GROUND,
    "_diagram": GROUND,
    "_explore": GROUND,
    "_pair_effects": GROUND,
    "_choice": GROUND,
    "_rows": GROUND,
    "_parameters": {"_gradient", "_interfaces", "_sklearn"},
    "_alternating": GROUND,
    "_gradient": GROUND,
    "_interfaces": {"_data", "_storage", "_topk"},
    "_data": {"_share", "_sklearn", "_storage", "_warn"},
    "distributed": {"_alternating", "_base", "_gradient", "_ranks", *GROUND},
    "_ranks": GROUND,
    "_sparse": {"_share"},
    "_snapshot": {"_settings"},
    "_settings": {"_device", "_threads", "_warn"},
    "_topk": {"_device"},
    **{module: set() for module in ("_deferred", "_device", "_share", "_sklearn")},
    **{module: set() for module in ("_storage", "_threads", "_warn")},
    "inspection": {"_data", "_settings", "_sklearn", "_snapshot", "metrics"},
    "metrics": {"_data", "_sklearn", "_warn"},
    "model_selection": {"_data", "_sklearn", "_warn"},
    "datasets": {"_data"},
    "preprocessing": {"_data", "_sklearn", "_warn"},
}
# Test files of modules that have none of their own name, and why.
TESTED_BY = {
    "_base": "contract",  # all that estimators share
    "_parameters": "bad_input",  # constraints alone
    "_iterations": "callbacks",
    "_conversion": "fold_in",  # further rows of posteriors
    "_effects": "context",  # tables of effects of context
    "_share": "distributed",  # all rows, unless processes share them
    "_ranks": "distributed",  # needs several processes
    "_alternating/layout": "conditional",  # places of its moments
    "_alternating/moments": "conditional",  # all of its sums
    "_alternating/column_moments": "context",  # terms of its columns
    "_alternating/column_start": "context",
    "_alternating/pair_evidence": "context",
    "_alternating/effects": "posterior",  # of its features
    "_alternating/resume": "convert",  # there and back
    "_alternating/along_axes": "conjugate",  # rows that have these steps
    "_gradient/further": "partial_fit",  # weights of known and of new rows
    "_gradient/measures": "loop",  # losses of a training
    "_gradient/tables": "network",  # forms of its tables
    "_data/sides": "interactions",  # a pair, of which rows are made
    "datasets/_matrix": "datasets",  # one folder, read as one topic
    "datasets/_movielens": "datasets",
    "datasets/_synthetic": "datasets",
    "inspection/_calibration": "inspection",  # displays, read as one topic
    "inspection/_drawing": "inspection",
    "inspection/_error_by_count": "inspection",
    "inspection/_factor_map": "inspection",
    "inspection/_fit_curve": "inspection",
    "inspection/_ranking_curve": "inspection",
    "metrics/_functions": "metrics",  # the functions are the public metrics
}
TESTS = Path(__file__).parent
MODULES = sorted(
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


def place(module):
    """The entry of MAY_IMPORT that a module belongs to."""
    return module.partition("/")[0]


def test_every_module_has_its_place():
    assert {place(module) for module in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", [m for m in MODULES if "__init__" not in m])
def test_every_module_has_its_tests(module):
    folder, _, name = module.rpartition("/")
    name, folder = name.strip("_"), folder.strip("_")
    # Modules of one name in two folders have the folder in that of their tests.
    topics = [TESTED_BY.get(module, name), f"{folder}_{name}"]
    assert any((TESTS / f"test_{topic}.py").exists() for topic in topics)


def test_exceptions_are_of_modules_without_tests_of_their_name():
    assert TESTED_BY.keys() <= set(MODULES)
    for module in TESTED_BY:
        name = module.rpartition("/")[2].strip("_")
        assert not (TESTS / f"test_{name}.py").exists()


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    imported = set()
    for level, name, names in imports(module):
        assert not name.startswith("skrec"), f"{module} imports by the absolute name"
        assert level <= 1 + module.count("/"), f"{module} reaches out of the package"
        if level == 1 + module.count("/"):
            targets = [name] if name else names
            imported |= {target.partition(".")[0] for target in targets}
    assert imported <= MAY_IMPORT[place(module)]


def test_imports_have_no_cycle():
    graph = {}
    for module in MODULES:
        folder = [*module.split("/")[:-1]]
        graph[module] = set()
        for level, name, names in imports(module):
            if not level:
                continue
            base = folder[: len(folder) + 1 - level]
            for target in [name] if name else names:
                path = "/".join([*base, *target.split(".")])
                found = [path, f"{path}/__init__"]
                graph[module] |= {p for p in found if p in MODULES}
    while graph:
        ends = {module for module, targets in graph.items() if not targets & set(graph)}
        assert ends, f"these import each other: {sorted(graph)}"
        graph = {m: targets for m, targets in graph.items() if m not in ends}


@pytest.mark.parametrize("module", MODULES)
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
        module
        for module in MODULES
        if place(module) in ("_alternating", "_choice", "_gradient", "_topk")
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
        "for solver in ('als', 'adam'):\n"
        "    model = skrec.MFRegressor(2, solver=solver, max_iter=2, random_state=0)\n"
        "    model.fit(X, y).predict(X)\n"
        "model = skrec.NCFRegressor(2, dropout=0.5, max_iter=2, random_state=0)\n"
        "model.fit(X, y).predict(X)\n"
        "assert torch.equal(state[0], torch.get_rng_state())\n"
        "assert (state[1] == np.random.get_state()[1]).all()\n"
        "assert threads == torch.get_num_threads()\n"
        "assert grad == torch.is_grad_enabled()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
