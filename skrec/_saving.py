"""Files and pickles of fitted estimators."""

from __future__ import annotations

import inspect
import os
import sys
from typing import Any

from sklearn import exceptions

from ._deferred import now
from ._snapshot import reads_one_fit
from ._storage import (
    STORED_CLASSES,
    Archive,
    PathOrFile,
    Reader,
    Writer,
    is_stored,
    write,
)
from ._warn import warn

FORMAT, FORMAT_VERSION = "skrec model", 1

# Devices that every machine has.
COMMON_DEVICES = ("auto", "cpu")


class InconsistentVersionWarning(exceptions.InconsistentVersionWarning):
    """A pickle is of another version of this package."""

    def __str__(self) -> str:
        return (
            f"This pickle of {self.estimator_name} is of skrec "
            f"{self.original_sklearn_version}, read by "
            f"{self.current_sklearn_version}. It may fail, or give other results. "
            "Pickles are for one version; later versions load files that save writes."
        )


class SavingMixin:
    """Estimators that can be saved, and whose pickles know their version."""

    @reads_one_fit
    def save(self, path: PathOrFile) -> None:
        """Write the fitted model to a file, which later versions can load.

        The file has the parameters and all that was learned, as arrays and a header of
        JSON in a zip archive, and no code; see :ref:`saving`. Callbacks and metadata
        requests are not part of it. A `device` other than "cpu" becomes "auto", so that
        a model from a GPU can be loaded anywhere.

        Parameters
        ----------
        path : str, path-like or binary file
            Path of the file, such as "model.skrec". The file comes into being, or
            replaces another, as a whole or not at all.

        Raises
        ------
        NotFittedError
            If there is no fit yet.
        TypeError
            If a parameter or an id is of a type that has no place in the file, or if
            the estimator is of a subclass of those of this package.

        See Also
        --------
        skrec.load : Load a model.

        Examples
        --------
        >>> import os, tempfile
        >>> import skrec
        >>> X = [["ann", "Heat"], ["ann", "Up"], ["bob", "Heat"], ["cleo", "Up"]]
        >>> model = skrec.DummyRecommender().fit(X)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "model.skrec")
        ...     model.save(path)
        ...     skrec.load(path).recommend(["bob"], n_items=1)
        array([['Up']], dtype=object)
        """
        name = type(self).__name__
        if not is_stored(type(self)):
            raise TypeError(
                f"save writes estimators of skrec itself, and {name} is a class of its "
                "own, which load would not know. Save one of skrec, or use pickle."
            )
        parameters = self.get_params(deep=False)  # type: ignore[attr-defined]
        fitted = {
            name: now(value)
            for name, value in vars(self).items()
            if name not in parameters and not _is_of_sklearn(name, value)
        }
        if "device" in parameters:
            device = str(parameters["device"])
            parameters["device"] = device if device in COMMON_DEVICES else "auto"
        writer = Writer()
        header = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "package_version": package_version(),
            "estimator": name,
            "parameters": {
                name: writer.tree(value, f"The parameter {name}")
                for name, value in parameters.items()
            },
            "fitted": {
                name: writer.tree(value, f"The attribute {name}")
                for name, value in fitted.items()
            },
        }
        write(path, header, writer.arrays)

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return state | {"_skrec_version": package_version()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = state.copy()
        version = state.pop("_skrec_version", "unknown")
        if version != package_version():
            warn(
                InconsistentVersionWarning(
                    estimator_name=type(self).__name__,
                    current_sklearn_version=package_version(),
                    original_sklearn_version=version,
                )
            )
            # Parameters that were added since have their defaults.
            state = defaults(type(self)) | state
        super().__setstate__(state)  # type: ignore[misc]


def load(path: PathOrFile) -> Any:
    """Load a model that its method `save` has written.

    Loading runs no code of the file and needs no GPU.

    Parameters
    ----------
    path : str, path-like or binary file
        File of this version of skrec or of an earlier one.

    Returns
    -------
    model : estimator
        A fitted estimator that predicts, recommends and learns further as the saved one
        did.

    Raises
    ------
    ValueError
        If the file is cut, damaged, of another program, or of a later version of skrec
        in a format that this version does not know.
    OSError
        If the file cannot be read.

    See Also
    --------
    skrec.MFRegressor.save : Save a model.

    Examples
    --------
    >>> import io
    >>> import skrec
    >>> X = [["ann", "Heat"], ["ann", "Up"], ["bob", "Heat"], ["cleo", "Up"]]
    >>> file = io.BytesIO()
    >>> skrec.MFRegressor(2).fit(X, [5, 3, 4, 2]).save(file)
    >>> model = skrec.load(file)
    >>> model
    MFRegressor(n_factors=2)
    >>> model.user_ids_
    array(['ann', 'bob', 'cleo'], dtype=object)
    """
    header: dict[str, Any] = {}
    try:
        with Archive(path) as archive:
            header = archive.header
            if header["format"] != FORMAT:
                raise ValueError(f"its format is {header['format']!r}")
            if header["format_version"] <= FORMAT_VERSION:
                return _model(header, Reader(archive.array))
    except OSError:
        raise
    except Exception as error:
        # A file that was changed can fail in any way.
        version = header.get("package_version")
        written = f"written by skrec {version}, " if version else ""
        raise ValueError(
            f"{_name(path)} is cut or damaged, or no model that save has written, such "
            f"as one of pickle or joblib. {type(error).__name__}: {error} ({written}"
            f"read by skrec {package_version()})"
        ) from error
    raise ValueError(
        f"{_name(path)} is of skrec {header['package_version']}, in version "
        f"{header['format_version']} of the format of files; skrec "
        f"{package_version()} reads versions up to {FORMAT_VERSION}. Update skrec to "
        "load it."
    )


def _model(header: dict[str, Any], reader: Reader) -> Any:
    cls = STORED_CLASSES[header["estimator"]]
    if not issubclass(cls, SavingMixin):
        raise ValueError(f"{cls.__name__} is no estimator")
    parameters, fitted = (
        {name: reader.value(tree) for name, tree in header[part].items()}
        for part in ("parameters", "fitted")
    )
    model = cls(**parameters)
    vars(model).update(fitted)
    return model


def _is_of_sklearn(name: str, value: Any) -> bool:
    """Whether an attribute is of scikit-learn, such as callbacks while a fit runs."""
    is_object = name.startswith("_") and type(value).__module__.startswith("sklearn.")
    return is_object or name.startswith("_skl")


def defaults(cls: type) -> dict[str, Any]:
    """Parameters of the constructor that have a default, and these."""
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def package_version() -> str:
    """Version of this package, which is known once all of it is imported."""
    return sys.modules[str(__package__)].__version__


def _name(path: PathOrFile) -> str:
    return repr(os.fspath(path)) if isinstance(path, str | os.PathLike) else "The file"
