"""Draw the picture of the first page and of the README from measured results.

It is stored, so that it shows without a build and without a network::

    python docs/overview.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import pandas as pd

DOCS = Path(__file__).parent
OURS, OTHERS = "#1f77b4", "#8b949e"
PANELS = [
    ("errors", "MovieLens 100K", "Error of ratings,\nMovieLens 100K", 0.8),
    ("errors", "MovieLens 1M", "Error of ratings,\nMovieLens 1M", 0.75),
    ("lists", "MovieLens 100K, lists", "Quality of lists,\nMovieLens 100K", 0),
]


def main():
    plt.rcParams |= {"svg.hashsalt": "skrec", "svg.fonttype": "path", "font.size": 10}
    figure, axes = plt.subplots(1, 3, figsize=(8.5, 2.6), layout="constrained")
    for ax, (name, data, title, start) in zip(axes, PANELS, strict=True):
        table = pd.read_csv(DOCS / "results" / f"summary_{name}.csv", index_col=0)
        measure = table.index.name
        rows = table.loc[data].rename_axis("model").reset_index(name="value")
        # Errors do not start at zero, so they are points, and no bars.
        is_ours = rows["model"] == "MFRegressor()"
        colors = [OURS if ours else OTHERS for ours in is_ours]
        ax.scatter(rows["value"], rows["model"], s=70, color=colors, zorder=3)
        ax.hlines(rows["model"], start, rows["value"], color=colors, linewidth=1)
        for model, value in zip(rows["model"], rows["value"], strict=True):
            text = f"{value:.4f}" if measure == "RMSE" else f"{value:.3f}"
            ax.annotate(
                text, (value, model), (7, 0), textcoords="offset points", va="center"
            )
        if ax is axes[1]:
            ax.set_yticks(ax.get_yticks(), [])  # the models of the first panel
        better = "lower" if measure == "RMSE" else "higher"
        ax.set_title(title, fontsize=10, loc="left")
        longest = rows["value"].max() - start
        ax.set_xlim(start, start + 1.35 * longest)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_xlabel(f"{measure}, {better} is better")
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(left=False)
        ax.locator_params(axis="x", nbins=4)
    figure.savefig(
        DOCS / "_static" / "overview.svg",
        metadata={"Date": None},
        bbox_inches="tight",
        facecolor="white",
    )


if __name__ == "__main__":
    main()
