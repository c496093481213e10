"""
===============================
A simulated week of exploration
===============================

Lists decide which ratings the model gets next. Greedy lists show what the model likes
already, and may never find out about the rest. Here two models learn for a week from
the ratings of their own lists: one shows the best items as it sees them, and one by a
draw from its posterior (Thompson sampling). See the page :doc:`/exploration`.
"""

# %%
# Users and their true tastes
# ---------------------------
# Each day every user gets a list of three items and rates them, with noise. Items may
# be shown again, as songs or recipes are. The regret of a day is the mean true rating
# of the best lists minus that of the lists shown.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from skrec import MFRegressor

N_USERS, N_ITEMS, N_DAYS = 150, 60, 7


def regret_of_a_week(strategy, seed):
    """Regret of each day, and the number of different items in the last lists."""
    rng = np.random.default_rng(seed)
    liking = rng.normal(size=(N_USERS, 3)) @ rng.normal(size=(3, N_ITEMS)) / 2
    liking += 3 + 0.4 * rng.normal(size=N_ITEMS)
    best = np.sort(liking)[:, -3:].mean()
    lists = pd.DataFrame({"user": np.arange(2 * N_USERS) % N_USERS})
    lists["item"] = rng.integers(N_ITEMS, size=len(lists))
    X, y, regret = lists[:0], np.empty(0), []
    for day in range(N_DAYS + 1):
        true = liking[lists["user"], lists["item"]]
        regret.append(best - true.mean())
        X = pd.concat([X, lists], ignore_index=True)
        y = np.append(y, true + 0.7 * rng.normal(size=len(true)))
        model = MFRegressor(4, rank_by="rating", max_iter=60).fit(X, y)
        lists = model.recommend(
            range(N_USERS),
            3,
            candidates=range(N_ITEMS),
            exclude_seen=False,
            strategy=strategy,
            random_state=day,
            as_frame=True,
        )[["user", "item"]]
    # The first ratings are of items drawn at random.
    return regret[1:]


# %%
# Three worlds
# ------------
# The strategies learn in the same worlds, with tastes drawn anew for each.

worlds = range(3)
regret = {
    name: np.array([regret_of_a_week(name, seed) for seed in worlds])
    for name in ("mean", "sample")
}

fig, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
days = np.arange(N_DAYS) + 1
for name, colour in zip(regret, ["C0", "C1"], strict=True):
    ax.plot(days, regret[name].T, color=colour, alpha=0.25)
    label = f'strategy="{name}"'
    ax.plot(days, regret[name].mean(axis=0), color=colour, linewidth=3, label=label)
ax.set(xlabel="Day", ylabel="Regret", ylim=(0, None), xticks=days)
ax.legend()
plt.show()

# %%
# Thin lines are single worlds, thick ones their mean. A draw costs more in the first
# days, and has found the tastes by the end of the week. Greedy lists are as good in
# most worlds, and get stuck in some.

pd.DataFrame(
    {name: [days.mean(), days[:, -1].max()] for name, days in regret.items()},
    index=["mean regret of the week", "worst world on the last day"],
).round(2)
