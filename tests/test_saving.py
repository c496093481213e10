"""Models that are saved: loaded ones answer and learn as those that were saved.

`tests/models` has models of each version, written by `tests/models/write.py`.
"""

import copy
import datetime as dt
import decimal
import io
import json
import pickle
import uuid
import warnings
import zipfile
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from helpers import NEEDS_CALLBACKS, Callback, saved, stored_answers, unconverged
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import InconsistentVersionWarning, NotFittedError

import skrec
from skrec import DummyRecommender, MFRegressor, NCFRegressor, load
from skrec._interfaces import Model
from skrec._storage import STORED_CLASSES
from skrec.datasets import make_ratings

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = make_ratings(30, 20, 300, random_state=0)
CONTEXT = X.assign(hour=np.arange(300) % 24 / 24)
SEASONS = X.assign(season=np.array(["dry", "wet"])[np.arange(len(X)) % 2])
FURTHER = pd.DataFrame({"user": [0, 1, 1000], "item": [3, 5, 7]})
USERS = pd.DataFrame(
    {
        "user": np.arange(35),
        "age": [np.nan, *np.arange(34) / 7],
        "job": ["clerk", "cook", None, "smith", "clerk"] * 7,
        "towns": [["Ulm", "Bonn"], ["Bonn"], [], ["Ulm"], ["Trier"]] * 7,
    }
)
ITEMS = np.arange(80).reshape(20, 4) % 7 / 3.0


def mf(**params):
    return MFRegressor(**{"n_factors": 3, "max_iter": 4, "random_state": 0, **params})


def ncf(**params):
    network = {"n_factors": 3, "hidden_layer_sizes": (4,), "max_iter": 2}
    return NCFRegressor(**{**network, "random_state": 0, **params})


def of_factors(n_factors, **options):
    rng = np.random.RandomState(0)
    users, items = rng.randn(30, n_factors), rng.randn(20, n_factors)
    options |= {"user_biases": rng.randn(30), "X": X}
    return MFRegressor.from_factors(users, items, **options)


def rounded(fit):
    """A fit whose covariances are rounded, as those of many rows are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skrec._alternating.triangles.MIN_BYTES", 0)
        return fit()


def twice(X, y):
    """Rows and nearly the same ones again."""
    return pd.concat([X, X]), np.concatenate([y, y + 0.1 * np.sin(np.arange(len(y)))])


# Fits of every solver and of every kind of model, by name.
FITS = {
    "vb": lambda: MFRegressor().fit(X, Y),
    "vb with features": lambda: mf(implicit_features=True).fit(
        X, Y, user_features=USERS, item_features=ITEMS
    ),
    "vb with context": lambda: mf(rank_by="rating").fit(CONTEXT, Y),
    "vb with seasons": lambda: mf(rank_by="rating").fit(SEASONS, Y),
    "vb without covariance": lambda: mf(store_covariance=False).fit(X, Y),
    "vb that has learned": lambda: mf().fit(X, Y).partial_fit(FURTHER, [1.0, 4, 5]),
    "vb of many rows": lambda: rounded(lambda: mf(n_factors=8).fit(X, Y)),
    "vb with repeats": lambda: mf(rank_by="rating").fit(*twice(X, Y)),
    "biases": lambda: mf(n_factors=0).fit(X, Y),
    "als": lambda: mf(solver="als").fit(X, Y, item_features=ITEMS),
    "als of choices": lambda: mf(solver="als", unobserved_weight=0.1).fit(X),
    "gibbs": lambda: mf(solver="gibbs").fit(X, Y, user_features=USERS),
    "adam": lambda: mf(solver="adam", early_stopping=True).fit(X, Y),
    "adam with seasons": lambda: mf(solver="adam").fit(SEASONS, Y),
    "sgd": lambda: mf(solver="sgd", loss="bpr").fit(X),
    "choices": lambda: MFRegressor().fit(X),
    "factors": lambda: of_factors(3),
    "wide factors": lambda: of_factors(64, reg=0.1),
    "network": lambda: ncf(n_members=2).fit(X, Y, user_features=USERS),
    "network with seasons": lambda: ncf().fit(SEASONS, Y),
    "network of choices": lambda: ncf(loss="log_loss", architecture="gmf").fit(X),
    "dummy": lambda: DummyRecommender().fit(X, Y, user_features=USERS),
}


@pytest.fixture(scope="module")
def models():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: fit() for name, fit in FITS.items()}


def through_a_file(model):
    file = io.BytesIO()
    model.save(file)
    return load(file)


def answers(model):
    """All that a model says and learns, in arrays."""
    model = copy.copy(model)
    rows = X
    if model.n_features_in_ == 3:
        rows = SEASONS if "season" in model.feature_names_in_ else CONTEXT
    more = rows[:3].assign(user=[0, 1, 1000])
    calls = {
        "predict": lambda: model.predict(rows),
        "std": lambda: model.predict(rows, return_std=True)[1],
        "strangers": lambda: model.predict(rows.assign(user=rows["user"] + 20)),
        "scores": lambda: model.recommend(range(35), 5, return_scores=True)[1],
        "items": lambda: model.recommend(range(35), 5),
        "similar": lambda: model.similar_items([0, 1], return_scores=True)[1],
        "reasons": lambda: model.explain(3, [1, 2])["contribution"].to_numpy(),
        "shares": lambda: model.explain(3, [1, 2], part="rating", ratings=(rows, Y))[
            "contribution"
        ].to_numpy(),
        "learn": lambda: model.partial_fit(more, [1.0, 5.0, 3.0]).predict(rows),
        "choose": lambda: model.partial_fit(more).predict(rows),
        "forget ids": lambda: model.forget(users=[2]).predict(rows),
        "forget rows": lambda: model.forget(rows[:2], Y[:2]).predict(rows),
    }
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, call in calls.items():
            try:
                found[name] = np.asarray(call())
            except (ValueError, AttributeError, TypeError) as error:
                found[name] = np.array(str(error))
    return found


@pytest.mark.parametrize("name", FITS)
def test_a_loaded_model_answers_and_learns_as_the_saved_one(models, name):
    model = models[name]
    loaded = through_a_file(model)
    assert type(loaded) is type(model)
    assert repr(loaded) == repr(model)
    assert loaded.get_params() == model.get_params()
    assert saved(loaded) == saved(model)
    expected = answers(model)
    assert sum(values.dtype.kind == "f" for values in expected.values()) >= 4
    for call, values in answers(loaded).items():
        if values.dtype.kind == "f":
            assert_allclose(values, expected[call], rtol=1e-12, atol=1e-12)
        else:
            assert_array_equal(values, expected[call])
    for attribute in ("n_features_in_", "n_iter_", "rating_range_", "loss_curve_"):
        assert getattr(loaded, attribute) == getattr(model, attribute)
    for attribute in ("feature_names_in_", "user_ids_", "item_ids_"):
        values = getattr(model, attribute, None)
        assert_array_equal(getattr(loaded, attribute, None), values)


def stored_types(value):
    """Classes of a value and of all that it holds."""
    if is_dataclass(value):
        yield type(value)
        value = [getattr(value, field.name) for field in fields(value)]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from stored_types(part)


def test_every_marked_class_is_part_of_a_model_that_is_tested(models):
    """A class that is not needed makes files harder to keep readable."""
    found = {cls for model in models.values() for cls in stored_types(vars(model))}
    estimators = {type(model) for model in models.values()}
    assert found | estimators == set(STORED_CLASSES.values())


def subclasses(cls):
    for sub in cls.__subclasses__():
        yield sub
        yield from subclasses(sub)


def test_every_public_estimator_and_every_model_that_a_fit_keeps_can_be_saved():
    public = [getattr(skrec, name) for name in skrec.__all__]
    estimators = [cls for cls in public if isinstance(cls, type)]
    assert all(STORED_CLASSES[cls.__name__] is cls for cls in estimators)
    kept = {"Posterior", "FittedNetwork", "ItemAutoencoder", "Popularity"}
    of_one_call = {
        *("NumberedRows", "LowerBound", "ExpectedGain"),
        *("InContext", "NetworkInContext", "WithPairEffects"),
    }
    own = {
        cls.__name__
        for cls in subclasses(Model)
        if cls.__module__.startswith("skrec.") and cls.__name__ != "StandardisedModel"
    }
    assert own <= kept | of_one_call
    assert kept <= STORED_CLASSES.keys()


def ids_of(kind):
    """Twelve ids of a kind, as a Series or as what else holds them."""
    numbers = np.arange(12)
    start = dt.datetime(2020, 1, 31, 23, 30)
    days = [start + dt.timedelta(days=int(j), hours=int(j)) for j in numbers]
    objects = {
        "large int": [10**30 + j for j in range(12)],
        "str": ["", "ünï\0", "long " * 100, *map(str, range(9))],
        "bytes": [bytes([j, 0]) for j in range(12)],
        "decimal": [decimal.Decimal(j) / 7 for j in range(12)],
        "uuid": [uuid.UUID(int=j) for j in range(12)],
        "date": [day.date() for day in days],
        "time": [dt.time(j, 30) for j in range(12)],
        "datetime": days,
        "aware": [day.replace(tzinfo=dt.UTC) for day in days],
        "timedelta": [day - start for day in days],
        "period": [pd.Period("2020-01", "M") + j for j in range(12)],
    }
    if kind in objects:
        return pd.Series(objects[kind], dtype=object)
    return {
        "bool": lambda: pd.Series(numbers % 2 == 0),
        "uint64": lambda: pd.Series(numbers.astype(np.uint64) + 2**63),
        "float": lambda: pd.Series(numbers + 2.0**40),
        "nullable": lambda: pd.Series(numbers, dtype="Int64"),
        "string": lambda: pd.Series([str(j) for j in numbers], dtype="string"),
        "categorical": lambda: pd.Series([f"c{j}" for j in numbers], dtype="category"),
        "datetime64": lambda: pd.Series(days),
        "time zone": lambda: pd.Series(days).dt.tz_localize("Europe/Berlin"),
        "timedelta64": lambda: pd.Series(days) - start,
        "mixed numbers": lambda: pd.Series([1, 2.0, 3, 4.5, *range(8)], dtype=object),
    }[kind]()


KINDS = "large int,str,bytes,decimal,uuid,date,time,datetime,aware,timedelta,period"
KINDS += ",bool,uint64,float,nullable,string,categorical,datetime64,time zone"
KINDS = [*KINDS.split(","), "timedelta64", "mixed numbers"]
DTYPES = ["int8", "uint16", "int32", "float32", "U5", "S5", "M8[s]", ">i4"]


def check_ids(rows, asked):
    model = DummyRecommender().fit(rows)
    loaded = through_a_file(model)
    for attribute in ("user_ids_", "item_ids_"):
        ours, theirs = getattr(loaded, attribute), getattr(model, attribute)
        assert ours.dtype == theirs.dtype
        assert list(map(type, ours)) == list(map(type, theirs))
        assert_array_equal(ours, theirs)
    assert_array_equal(loaded.recommend(asked), model.recommend(asked))


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_every_kind(kind):
    ids = ids_of(kind)
    rows = pd.DataFrame({"user": ids, "item": np.arange(12) % 5})
    check_ids(rows, ids[:3])
    check_ids(rows[["item", "user"]], [0, 1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_ids_of_every_dtype(dtype):
    ids = np.arange(12).astype("i8").astype(dtype)
    check_ids(np.column_stack([ids, ids[::-1]]), ids[:3])


@pytest.mark.parametrize("kind", ["str", "aware", "date", "decimal", "bool"])
@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_ids_of_other_libraries(kind, library):
    columns = {"user": ids_of(kind).tolist(), "item": list(range(12))}
    rows = pl.DataFrame(columns) if library == "polars" else pa.table(columns)
    check_ids(rows, rows["user"][:3])


def test_labels_of_side_features_keep_their_kind():
    shelf = pd.DataFrame({"shelf": [1, "b", True, 2.5] * 5}, dtype=object)
    model = DummyRecommender().fit(X, item_features=shelf.astype(str))
    assert saved(through_a_file(model)) == saved(model)


@pytest.mark.parametrize(
    ("device", "loaded"),
    [
        ("auto", "auto"),
        ("cpu", "cpu"),
        (torch.device("cpu"), "cpu"),
        ("cuda:7", "auto"),
    ],
)
def test_devices_of_one_machine_are_not_stored(device, loaded):
    model = mf().fit(X, Y).set_params(device=device)
    assert through_a_file(model).device == loaded
    assert model.device == device


def test_parameters_of_numpy_and_states_of_random_numbers_are_stored():
    random_state = np.random.RandomState(3)
    model = ncf(
        n_factors=np.int64(2), random_state=random_state, hidden_layer_sizes=[4]
    ).fit(X, Y)
    loaded = through_a_file(model)
    assert loaded.n_factors == 2
    assert loaded.hidden_layer_sizes == [4]
    with unconverged():
        expected = model.fit(X, Y).predict(X)
        assert_allclose(loaded.fit(X, Y).predict(X), expected, rtol=1e-12)


def test_parameters_without_a_place_are_named():
    model = mf().fit(X, Y).set_params(max_iter=len)
    with pytest.raises(TypeError, match="parameter max_iter cannot be saved"):
        model.save(io.BytesIO())
    model = mf().fit(X, Y)
    model.note_ = object()
    with pytest.raises(TypeError, match="attribute note_ cannot be saved"):
        model.save(io.BytesIO())


@NEEDS_CALLBACKS
def test_callbacks_are_not_part_of_a_model():
    with unconverged():
        model = mf().set_callbacks(Callback()).fit(X, Y)
    assert saved(model) == saved(mf().fit(X, Y))


def test_only_fits_of_the_package_are_saved():
    class Own(DummyRecommender):
        pass

    with pytest.raises(TypeError, match="Own is a class of its own"):
        Own().fit(X).save(io.BytesIO())
    with pytest.raises(NotFittedError):
        MFRegressor().save(io.BytesIO())


def test_a_file_at_a_path_has_a_header_that_one_can_read(tmp_path):
    path = tmp_path / "model.skrec"
    model = mf().fit(X, Y)
    for target in (path, str(path)):
        model.save(target)
        assert_array_equal(load(target).predict(X), model.predict(X))
    assert [path] == list(tmp_path.iterdir())
    with zipfile.ZipFile(path) as archive:
        header = json.loads(archive.read("header.json"))
        _, fields = header["fitted"]["_model"]["class"]
        number = fields["users"]["class"][1]["mean"]["array"]
        with archive.open(f"{number}.npy") as file:
            mean = np.load(file)
    assert header["format_version"] == 1
    assert header["package_version"] == skrec.__version__
    assert header["parameters"]["n_factors"] == 3
    assert_array_equal(mean[0, :, :3], model.user_factors_)


@pytest.fixture(scope="module")
def content():
    return saved(MFRegressor(2).fit(X, Y))


def with_header(content, **changes):
    """The same file with another header."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            text = old.read(name)
            if name == "header.json":
                text = json.dumps(json.loads(text) | changes)
            new.writestr(name, text)
    return io.BytesIO(file.getvalue())


def test_a_file_that_is_cut_anywhere_is_refused(content, tmp_path):
    path = tmp_path / "model.skrec"
    sizes = np.linspace(0, len(content) - 1, 30).astype(int)
    for size in sizes:
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"model\.skrec' is cut or damaged"):
            load(path)


def test_a_file_with_a_wrong_bit_is_refused_or_means_the_same(content):
    """Some bytes of an archive, such as times, mean nothing."""
    expected = load(io.BytesIO(content)).predict(X)
    rng = np.random.RandomState(0)
    messages = []
    for place in rng.choice(len(content), 90, replace=False):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randint(8)
        try:
            loaded = load(io.BytesIO(bytes(damaged)))
        except ValueError as error:
            messages.append(str(error))
        else:
            assert_array_equal(loaded.predict(X), expected)
    assert len(messages) > 60
    assert all("is cut or damaged" in message for message in messages)


@pytest.mark.parametrize(
    "foreign", [b"", b"text", pickle.dumps([1, 2]), b"PK\5\6" + bytes(18)]
)
def test_files_of_other_programs_are_refused(foreign):
    with pytest.raises(ValueError, match="The file is cut or damaged, or no model"):
        load(io.BytesIO(foreign))


def test_arrays_of_numpy_are_no_model(tmp_path):
    np.savez(tmp_path / "arrays.npz", a=np.arange(3))
    with pytest.raises(ValueError, match=r"header\.json"):
        load(tmp_path / "arrays.npz")
    with pytest.raises(FileNotFoundError, match="nothing"):
        load(tmp_path / "nothing.skrec")


def test_a_later_format_is_refused_by_the_version_that_wrote_it(content):
    file = with_header(content, format_version=2, package_version="7.1")
    with pytest.raises(ValueError, match=r"of skrec 7\.1, in version 2.*Update skrec"):
        load(file)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other"},
        {"format_version": "1"},
        {"format_version": None},
        {"estimator": "Posterior"},
        {"estimator": "Pipeline"},
        {"parameters": {"a_later_one": 1}},
        {"parameters": [1]},
        {"fitted": {"_model": {"class": ["Ridge", {}]}}},
        {"fitted": {"_model": {"class": ["Units", {"a_later_one": 1}]}}},
        {"fitted": {"_model": {"array": "../../etc/passwd"}}},
    ],
    ids=str,
)
def test_headers_that_mean_nothing_are_refused(content, changes):
    with pytest.raises(ValueError, match=r"cut or damaged.*read by"):
        load(with_header(content, **changes))


def test_parameters_that_are_not_in_a_file_have_their_defaults(content):
    loaded = load(with_header(content, parameters={"n_factors": 2}))
    assert loaded.get_params() == MFRegressor(2).get_params()


def test_pickles_of_another_version_say_so_and_get_new_parameters(monkeypatch):
    model = mf(clip=False).fit(X, Y)
    with monkeypatch.context() as patched:
        patched.setattr(skrec, "__version__", "0.0.7")
        content = pickle.dumps(model)
        del model.rank_by
        older = pickle.dumps(model)
    for pickled in (content, older):
        with pytest.warns(InconsistentVersionWarning, match=r"skrec 0\.0\.7") as found:
            loaded = pickle.loads(pickled)
        assert found[0].filename == __file__
        assert loaded.rank_by == "both"
        assert not loaded.clip
        assert not hasattr(loaded, "_skrec_version")
        assert_array_equal(loaded.predict(X), model.predict(X))


def test_pickles_of_this_version_are_silent_and_copies_have_no_version(models):
    for model in models.values():
        loaded = pickle.loads(pickle.dumps(model))
        assert vars(loaded).keys() == vars(model).keys()
        assert vars(copy.deepcopy(model)).keys() == vars(model).keys()


STORED = Path(__file__).parent / "models"
VERSIONS = sorted(path.parent.name for path in STORED.glob("*/expected.npz"))


@pytest.mark.parametrize("version", VERSIONS)
def test_models_of_every_version_answer_as_when_they_were_saved(version):
    """Files of a version are never written anew."""
    folder = STORED / version
    names = {path.stem for path in folder.glob("*.skrec")}
    with np.load(folder / "expected.npz") as expected:
        assert {name.partition(".")[0] for name in expected} == names
        for name in names:
            model = load(folder / f"{name}.skrec")
            for call, values in stored_answers(model).items():
                theirs = expected[f"{name}.{call}"]
                if values.dtype.kind == "f":
                    assert_allclose(values, theirs, rtol=1e-12, atol=1e-12)
                else:
                    assert_array_equal(values, theirs)


def test_this_version_has_stored_models_and_all_are_small():
    assert skrec.__version__ in VERSIONS
    for version in VERSIONS:
        sizes = [path.stat().st_size for path in (STORED / version).iterdir()]
        assert sum(sizes) < 100 * 2**10


def test_a_folder_that_is_not_there_is_named(tmp_path):
    model = DummyRecommender().fit([["ann", "Heat"]])
    with pytest.raises(FileNotFoundError, match=r"no folder '.*models' for the file"):
        model.save(tmp_path / "models" / "best.skrec")
