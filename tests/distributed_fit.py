"""Script of the tests of distributed fits: each process fits a shard of the rows.

torchrun starts it with the path of a pickled list of cases, and the name of a folder
for their results.
"""

import os
import pickle
import sys
import time
import warnings
from pathlib import Path

from skrec import MFRegressor, NCFRegressor, _iterations, distributed


class Dies(NCFRegressor):
    """A network whose second process ends after its second epoch."""

    def _solver(self):
        _iterations.print_progress = self._end
        return super()._solver()

    def _end(self, estimator, number, *progress):
        if number == 2 and os.environ["RANK"] == "1":
            os._exit(3)


class Sleeps:
    """A table of features that is never read."""

    def __call__(self):
        time.sleep(600)


def fitted(rank, params, shards, features=None, timeout=60, kind=MFRegressor):
    X, y, weight = shards[rank]
    features = features[rank] if isinstance(features, list) else features
    model = kind(**params)
    result = distributed.fit(
        model, X, y, weight, item_features=features, timeout=timeout
    )
    assert result is model
    return model


def main(cases, folder):
    warnings.simplefilter("ignore")
    rank, results = int(os.environ["RANK"]), []
    for case in pickle.loads(Path(cases).read_bytes()):
        try:
            results.append(fitted(rank, **case))
        except Exception as error:
            results.append(error)
        path = Path(folder, f"{rank}.pickle")
        path.write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
