"""What a figure depends on besides the model: metric, candidates, split, ties, chance.

The figures of the page "Evaluating recommenders". A row is relevant where its rating is
4 or 5. Whatever is chosen is chosen by cross-validation within a training set. Progress
goes to stderr, tables to stdout.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from _common import (
    DATA,
    Split,
    first_tenth,
    folds,
    load_ml_100k,
    load_npz,
    options,
    run_command,
    x_y,
)
from sklearn.base import RegressorMixin, clone
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import GridSearchCV, KFold

from skrec import MFRegressor, NCFRegressor
from skrec.metrics import (
    RankingScorer,
    catalogue_coverage,
    hit_rate_at_k,
    ndcg_at_k,
    novelty,
)
from skrec.model_selection import (
    ColdStartKFold,
    LeaveLastOut,
    TemporalSplit,
    UserHoldout,
)

# Standard deviations on both sides of the mean that hold 90 % of a Gaussian.
Z_90 = 1.645

LIKED = 4
RANKED = {
    candidates: RankingScorer(
        ["ndcg", "recall"], candidates=candidates, relevance_threshold=LIKED
    )
    for candidates in ("unseen", "test")
}
RMSE, UNSEEN, RECALL, TEST = "RMSE", "NDCG, unseen", "recall, unseen", "NDCG, test"
BITS = "bits"

N_LAST, N_TURNS = 5, 5

GRID = {"reg": [1, 3, 10, 30], "biased": [True, False]}
INNER_FOLDS = KFold(3, shuffle=True, random_state=0)

# What a model is fitted to.
TARGETS: dict[str, Callable[[pd.DataFrame, pd.Series], pd.Series | None]] = {
    "ratings": lambda X, y: y,
    "no y": lambda X, y: None,
    "1 if liked": lambda X, y: (y >= LIKED).astype(float),
    "1": lambda X, y: pd.Series(1.0, index=y.index),
    "rows of the item": lambda X, y: X.groupby("item")["item"].transform("size"),
}


class Contestant(NamedTuple):
    """A model, and the key of TARGETS that it is fitted to."""

    model: RegressorMixin
    target: str = "ratings"


COUNTS, BIASES, BPR = "counts", "biases, by rating", "bpr"
DEFAULT, BY_CHOICE, BY_RATING = "default", "vb, by choice", "vb, by rating"
NO_Y, NCF_RATINGS = "choices", "ncf"
CONTESTANTS = {
    # Biases that nothing holds back become the counts that they are fitted to.
    COUNTS: Contestant(
        MFRegressor(0, solver="als", reg=1e-6, tol=1e-5, rank_by="rating"),
        "rows of the item",
    ),
    BIASES: Contestant(MFRegressor(0, rank_by="rating")),
    BY_RATING: Contestant(MFRegressor(rank_by="rating")),
    BY_CHOICE: Contestant(MFRegressor(rank_by="choice")),
    DEFAULT: Contestant(MFRegressor()),
    NO_Y: Contestant(MFRegressor(), "no y"),
    BPR: Contestant(
        MFRegressor(solver="adam", loss="bpr", random_state=0), "1 if liked"
    ),
    "bpr, all": Contestant(MFRegressor(solver="adam", loss="bpr", random_state=0), "1"),
}
NCF = {
    NCF_RATINGS: Contestant(NCFRegressor(random_state=0)),
    "ncf, log loss": Contestant(
        NCFRegressor(n_members=2, loss="log_loss", random_state=0), "1 if liked"
    ),
}

Scores = dict[str, float]


def scores(model: RegressorMixin, X: pd.DataFrame, y: pd.Series) -> Scores:
    """All measures of a fitted model; scikit-learn takes it as a scorer."""
    unseen, test = (RANKED[candidates](model, X, y) for candidates in RANKED)
    return {
        RMSE: root_mean_squared_error(y, model.predict(X)),
        UNSEEN: unseen["ndcg@10"],
        RECALL: unseen["recall@10"],
        TEST: test["ndcg@10"],
    }


def scored(contestant: Contestant, split: Split) -> Scores:
    (X, y), test = x_y(split.train), x_y(split.test)
    model = clone(contestant.model).fit(X, TARGETS[contestant.target](X, y))
    found = scores(model, *test)
    found[BITS] = novelty(model.recommend(split.test["user"].unique()), X)
    if contestant.target != "ratings":
        found[RMSE] = np.nan
    return found


def compared(
    contestants: dict[str, Contestant], splits: Sequence[Split]
) -> dict[str, list[Scores]]:
    """Scores of each contestant on each split."""
    found: dict[str, list[Scores]] = {name: [] for name in contestants}
    for split in splits:
        for name, contestant in contestants.items():
            start = time.perf_counter()
            found[name].append(scored(contestant, split))
            tell(name, found[name][-1], start)
    return found


def tell(name: str, found: Scores, start: float) -> None:
    figures = ", ".join(f"{measure} {figure:.4f}" for measure, figure in found.items())
    seconds = time.perf_counter() - start
    print(f"{name}: {figures}, {seconds:.1f} s", file=sys.stderr)


def mean_and_deviation(figures: Sequence[float]) -> str:
    """Mean and standard deviation over splits."""
    if np.isnan(figures).any():
        return ""
    mean = decimals(np.mean(figures))
    return (
        mean if len(figures) == 1 else f"{mean} ± {decimals(np.std(figures, ddof=1))}"
    )


def decimals(figure: float) -> str:
    text = f"{figure:.3f}"
    return text.replace("0.", ".", 1) if abs(figure) < 1 else text


def score_table(
    found: dict[str, list[Scores]], contestants: dict[str, Contestant]
) -> pd.DataFrame:
    measures = [RMSE, UNSEEN, RECALL, TEST, BITS]
    return pd.DataFrame(
        [
            [
                name,
                contestants[name].target,
                *(mean_and_deviation([s[m] for s in of_splits]) for m in measures),
            ]
            for name, of_splits in found.items()
        ],
        columns=["model", "fitted to", *measures],
    )


def chosen(split: Split) -> tuple[dict[str, Contestant], pd.DataFrame]:
    """Settings of als that are best within the training set, and all of them."""
    search = GridSearchCV(
        MFRegressor(solver="als", rank_by="rating", store_covariance=False),
        GRID,
        scoring=scores,
        refit=False,
        cv=INNER_FOLDS,
    ).fit(*x_y(split.train))
    results = pd.DataFrame(search.cv_results_)
    best = {
        "als, by RMSE": results[f"mean_test_{RMSE}"].idxmin(),
        "als, by NDCG": results[f"mean_test_{UNSEEN}"].idxmax(),
    }
    for name, row in best.items():
        print(f"{name}: {results['params'][row]}", file=sys.stderr)
    contestants = {
        name: Contestant(
            MFRegressor(solver="als", rank_by="rating", **results["params"][row])
        )
        for name, row in best.items()
    }
    results = results.sort_values(f"mean_test_{RMSE}")
    measures = [RMSE, UNSEEN, TEST]
    settings = pd.DataFrame(list(results["params"])).astype(str)
    figures = results[[f"mean_test_{m}" for m in measures]].map(decimals)
    figures = figures.set_axis(measures, axis=1).reset_index(drop=True)
    return contestants, settings.join(figures)


def models(args: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Models by several measures; the noise of these."""
    splits = list(folds(load_ml_100k()))
    found: dict[str, list[Scores]] = {}
    searches = []
    for split in splits:
        best, search = chosen(split)
        searches.append(search)
        contestants = {**CONTESTANTS, **NCF, **best}
        for name, (scores_of_fold,) in compared(contestants, [split]).items():
            found.setdefault(name, []).append(scores_of_fold)
    # Relevant test rows, as if they were lists.
    liked = [split.test["item"][split.test["rating"] >= LIKED] for split in splits]
    bits = [novelty(liked[i], splits[i].train[["user", "item"]]) for i in range(5)]
    relevant = {"model": "relevant test rows", BITS: mean_and_deviation(bits)}
    differences = pd.DataFrame(
        [
            [
                name,
                other,
                *(
                    mean_and_deviation(
                        [
                            ours[m] - theirs[m]
                            for ours, theirs in zip(
                                found[name], found[other], strict=True
                            )
                        ]
                    )
                    for m in (RMSE, UNSEEN, TEST)
                ),
            ]
            for name, other in (
                (BY_RATING, "als, by RMSE"),
                ("als, by NDCG", "als, by RMSE"),
                (DEFAULT, BY_CHOICE),
                (DEFAULT, NCF_RATINGS),
                (BPR, "ncf, log loss"),
            )
        ],
        columns=["model", "less model", RMSE, UNSEEN, TEST],
    )
    seeds = {
        f"{BPR}, {seed}": Contestant(
            clone(CONTESTANTS[BPR].model).set_params(random_state=seed), "1 if liked"
        )
        for seed in range(5)
    }
    of_seeds = compared(seeds, splits[:1]).values()
    table = pd.concat([score_table(found, contestants), pd.DataFrame([relevant])])
    return {
        "": table.fillna(""),
        # The settings within the first training set.
        "search": searches[0],
        "differences": differences,
        # "bpr" on the first fold.
        "seeds": score_table({BPR: [of_seed for (of_seed,) in of_seeds]}, CONTESTANTS),
    }


def ml_1m(args: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Models on one split."""
    split = first_tenth(load_npz(DATA / "ml-1m.npz"))
    return {"": score_table(compared(CONTESTANTS, [split]), CONTESTANTS)}


def last_five(args: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Models on the last rows of each user."""
    ratings = load_ml_100k()
    order = np.argsort(timestamps(), kind="stable")
    test = ratings.iloc[order].groupby("user").tail(N_LAST)
    contestants = {**CONTESTANTS, NCF_RATINGS: NCF[NCF_RATINGS]}
    parts = [Split(ratings.drop(test.index), test)]
    return {"": score_table(compared(contestants, parts), contestants)}


def rank_by(args: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Lists of one fold by each value of `rank_by`, and by counts; their cost."""
    split = next(folds(load_ml_100k()))
    (X, y), (X_test, y_test) = x_y(split.train), x_y(split.test)
    models = {
        name: clone(model).fit(X, TARGETS[target](X, y))
        for name, (model, target) in CONTESTANTS.items()
        if name in (COUNTS, BY_RATING, BY_CHOICE, DEFAULT)
    }
    rows = []
    for name, model in models.items():
        lists = model.recommend(X_test["user"].unique(), as_frame=True)
        rated = lists.merge(split.test)["rating"]
        figures = [
            RANKED["unseen"](model, X_test, y_test)["ndcg@10"],
            len(rated) / len(lists),
            rated.mean(),
            models[DEFAULT].predict(lists[["user", "item"]]).mean(),
            catalogue_coverage(lists["item"], model.item_ids_),
            novelty(lists["item"], X),
        ]
        rows.append([name, *map(decimals, figures)])
    header = ["model", UNSEEN, "rated", "rating", "expected rating", "coverage", BITS]
    lists = pd.DataFrame(rows, columns=header)
    return {"": lists, "seconds": fit_seconds(split)}


def fit_seconds(first_fold: Split) -> pd.DataFrame:
    """Of the processor, the median of fits in turns."""
    sets = {"ML-100K": first_fold, "ML-1M": first_tenth(load_npz(DATA / "ml-1m.npz"))}
    rows = []
    for name, part in sets.items():
        seconds = {BY_RATING: [], DEFAULT: []}
        for _ in range(N_TURNS):
            for contestant, of_turns in seconds.items():
                start = time.process_time()
                clone(CONTESTANTS[contestant].model).fit(*x_y(part.train))
                of_turns.append(time.process_time() - start)
        by_rating, default = map(np.median, seconds.values())
        figures = [by_rating, default, default / by_rating]
        rows.append([name, *(f"{figure:.2f}" for figure in figures)])
    header = ["training set", f"{BY_RATING}, s", f"{DEFAULT}, s", "ratio"]
    return pd.DataFrame(rows, columns=header)


def threshold(args: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Rows below a threshold as none, or as rows of 0, within a training set."""
    split = first_tenth(next(folds(load_ml_100k())).train.reset_index(drop=True))
    (X, y), test = x_y(split.train), x_y(split.test)
    adam = {"solver": "adam", "random_state": 0}
    models = {
        '"als", weight .1': MFRegressor(solver="als", unobserved_weight=0.1),
        '"bpr"': MFRegressor(loss="bpr", **adam),
        '"log_loss"': MFRegressor(loss="log_loss", **adam),
    }
    rows = []
    for name, model in models.items():
        chosen = clone(model).set_params(choice_threshold=LIKED).fit(X, y)
        zeros = clone(model).fit(X, TARGETS["1 if liked"](X, y))
        figures = [RANKED["unseen"](m, *test)["ndcg@10"] for m in (chosen, zeros)]
        rows.append([name, *map(decimals, figures)])
    header = ["model", f"choice_threshold={LIKED}", "rows of 0"]
    return {"": pd.DataFrame(rows, columns=header)}


def splits(args: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """One model on the splits of all splitters."""
    # LeaveLastOut tests one row per user, which leaves nothing to rank among these.
    warnings.simplefilter("ignore", UndefinedMetricWarning)
    ratings, times = load_ml_100k(), timestamps()
    timed = {"timestamps": times}
    splitters = {
        "KFold": (KFold(5, shuffle=True, random_state=0), {}),
        "LeaveLastOut": (LeaveLastOut(5), timed),
        "TemporalSplit": (TemporalSplit(5), timed),
        # The rows of u.data are not in the order of time.
        "TemporalSplit, row_order": (TemporalSplit(5, time="row_order"), {}),
        "UserHoldout, earliest": (UserHoldout(5, given=10, random_state=0), timed),
        "UserHoldout, random": (UserHoldout(5, given=10, random_state=0), {}),
        "ColdStartKFold, by user": (ColdStartKFold(5, random_state=0), {}),
        "ColdStartKFold, by item": (ColdStartKFold(5, by="item", random_state=0), {}),
    }
    rows = []
    for name, (cv, metadata) in splitters.items():
        parts = [
            Split(ratings.iloc[train], ratings.iloc[test])
            for train, test in cv.split(ratings, **metadata)
        ]
        counts, by_rating, default = compared(
            {name: CONTESTANTS[name] for name in (COUNTS, BY_RATING, DEFAULT)}, parts
        ).values()
        rows.append(
            [
                name,
                f"{np.mean([len(part.test) for part in parts]):.0f}",
                *(
                    f"{np.mean([unknown(part, column) for part in parts]):.0%}"
                    for column in ("user", "item")
                ),
                *(
                    mean_and_deviation([scores[m] for scores in default])
                    for m in (RMSE, TEST, UNSEEN)
                ),
                mean_and_deviation([scores[UNSEEN] for scores in by_rating]),
                mean_and_deviation([scores[UNSEEN] for scores in counts]),
            ]
        )
    header = [
        *("splitter", "test rows", "unknown users", "unknown items"),
        *(RMSE, TEST, UNSEEN, "by rating", COUNTS),
    ]
    return {"": pd.DataFrame(rows, columns=header)}


def visitors(args: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Users whom a fit has not seen, and who then give a few ratings."""
    ratings, timed = load_ml_100k(), {"timestamps": timestamps()}
    models = {
        DEFAULT: MFRegressor(),
        "without implicit features": MFRegressor(implicit_features=False),
        NCF_RATINGS: NCFRegressor(random_state=0),
    }
    columns = [(RMSE, name) for name in models]
    columns += [(UNSEEN, name) for name in (DEFAULT, NCF_RATINGS, COUNTS)]
    rows = []
    for order, metadata in (("random", {}), ("earliest", timed)):
        for n_given in (1, 3, 10):
            cv = UserHoldout(5, given=n_given, random_state=0)
            found: dict[str, list[Scores]] = {name: [] for name in (*models, COUNTS)}
            for parts in cv.split_given(ratings, **metadata):
                train, given, test = (x_y(ratings.iloc[part]) for part in parts)
                for name, model in models.items():
                    start = time.perf_counter()
                    updated = clone(model).fit(*train).partial_fit(*given)
                    found[name].append(scores(updated, *test))
                    tell(name, found[name][-1], start)
                known = Split(
                    ratings.iloc[np.concatenate(parts[:2])], ratings.iloc[parts[2]]
                )
                found[COUNTS].append(scored(CONTESTANTS[COUNTS], known))
            rows.append(
                [
                    f"{n_given} {order}",
                    *(
                        mean_and_deviation([scores[measure] for scores in found[name]])
                        for measure, name in columns
                    ),
                ]
            )
    header = ["given ratings", *(f"{measure}, {name}" for measure, name in columns)]
    return {"": pd.DataFrame(rows, columns=header)}


def timestamps() -> np.ndarray:
    with (
        zipfile.ZipFile(DATA / "ml-100k.zip") as archive,
        archive.open("ml-100k/u.data") as file,
    ):
        return np.loadtxt(file, dtype=np.int64, usecols=3)


def unknown(split: Split, column: str) -> float:
    """Share of test rows whose id has no training row."""
    return float((~split.test[column].isin(split.train[column])).mean())


def ties(args: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """What a model is worth that says the same of all rows."""
    _, test = next(folds(load_ml_100k()))
    n_users, n_others = 943, 99
    tables = {
        "NDCG, test rows, best rating first": (
            ndcg_at_k,
            test.sort_values("rating", ascending=False, kind="stable"),
        ),
        "NDCG, test rows, worst rating first": (
            ndcg_at_k,
            test.sort_values("rating", kind="stable"),
        ),
        "hit rate, the item before 99 others": (
            hit_rate_at_k,
            pd.DataFrame(
                {
                    "user": np.repeat(np.arange(n_users), 1 + n_others),
                    "rating": np.tile([5] + [0] * n_others, n_users),
                }
            ),
        ),
    }
    table = pd.DataFrame(
        [
            [
                name,
                *(
                    decimals(
                        metric(
                            table["rating"],
                            by,
                            table["user"],
                            relevance_threshold=LIKED,
                        )
                    )
                    for by in (-np.arange(len(table)), np.zeros(len(table)))
                ),
            ]
            for name, (metric, table) in tables.items()
        ],
        columns=["measure", "order of rows", "permutation"],
    )
    return {"": table}


def intervals(args: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Shares of test ratings in intervals, by how many ratings their users have."""
    tables = []
    for split in folds(load_ml_100k()):
        (X, y), (X_test, y_test) = map(x_y, split)
        n_rated = X_test["user"].map(X["user"].value_counts()).fillna(0)
        # Users are equally many in each decile, and test rows are not.
        of_users = X["user"].value_counts().rank(method="first", pct=True)
        decile = np.ceil(10 * X_test["user"].map(of_users).fillna(0.1)).astype(int)
        table = pd.DataFrame({"decile": decile, "ratings": n_rated})
        for solver in ("vb", "gibbs"):
            model = MFRegressor(solver=solver, rank_by="rating", random_state=0)
            predicted, std = model.fit(X, y).predict(X_test, return_std=True)
            table[solver] = np.abs(y_test - predicted) < Z_90 * std
        tables.append(table)
    of_all = pd.concat(tables)
    by_decile = of_all.groupby("decile")
    least, most = by_decile["ratings"].min(), by_decile["ratings"].max()
    shares, n_rows = by_decile[["vb", "gibbs"]].mean(), by_decile.size()
    table = pd.DataFrame(
        [
            [
                str(number),
                f"{least[number]:.0f} to {most[number]:.0f}",
                f"{n_rows[number]:,}",
                *map(decimals, shares.loc[number]),
            ]
            for number in shares.index
        ],
        columns=["decile", "ratings of a user", "test rows", "vb", "gibbs"],
    )
    return {"": table}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, parents=[options()])
    commands = {
        "intervals": intervals,
        "ties": ties,
        "rank-by": rank_by,
        "threshold": threshold,
        "splits": splits,
        "visitors": visitors,
        "last-five": last_five,
        "models": models,
        "ml-1m": ml_1m,
    }
    parser.add_argument("figures", choices=commands)
    args = parser.parse_args()
    args.run = commands[args.figures]
    return args


if __name__ == "__main__":
    run_command(parse_args())
