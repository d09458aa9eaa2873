"""Where MLflow is, and how a person gets to look at it."""

import os
import re
import shlex
import sys
from pathlib import Path
from urllib.parse import quote, urlencode

from irtune.redaction import public_address

ADDRESS = "tracking.json"
"""The file in a study's folder that says where its runs belong; without it MLflow has none of them."""

_SQLITE = "sqlite:///"
_NOT_IN_PATHS = re.compile(r"\?|%[0-9A-Fa-f]{2}")
"""What SQLAlchemy reads in an address as something else: the beginning of a query, and a quoted character."""

RUN_ID = re.compile(r"[0-9a-f]{32}")


def resolve_tracking_uri(configured: str | None, storage: Path) -> str:
    """The store to use: the configured one, else MLFLOW_TRACKING_URI, else a database in ``storage``.

    The path of an SQLite database becomes absolute, so that it means the same from any folder.

    Raises:
        ValueError: If the path of an SQLite database cannot be said in an address.
    """
    default = f"{_SQLITE}{storage.expanduser().resolve() / 'mlflow.db'}"
    named = configured or os.environ.get("MLFLOW_TRACKING_URI")
    uri = (named or default).strip().rstrip("/")
    database = local_database(uri)
    if database is None:
        return uri
    if odd := _NOT_IN_PATHS.search(str(database)):
        raise ValueError(
            f"{'tracking.uri' if named else 'storage'}: {database} has {odd[0]!r} in its path, and MLflow would keep "
            "the database in another place. Choose a folder without it, or set tracking.uri to the http(s) address of "
            "an MLflow server, or to sqlite:///<absolute path>/mlflow.db without it"
        )
    return f"{_SQLITE}{database}"


def local_database(uri: str) -> Path | None:
    """The absolute path of an SQLite store's file; None for any other store."""
    return Path(uri.removeprefix(_SQLITE)).absolute() if uri.startswith(_SQLITE) else None


def is_in_mlflow(source: str) -> bool:
    """Whether a text names something in MLflow: ``runs:/ID``, a run's id itself, or ``models:/…``."""
    return source.startswith(("runs:/", "models:/")) or RUN_ID.fullmatch(source) is not None


def requires_server(uri: str) -> bool:
    """Whether training on several nodes needs a tracking server in place of this store, a file of this machine."""
    return not uri.startswith(("http://", "https://"))


def artifact_root(database: Path) -> Path:
    """Where the artifacts of an SQLite store lie: next to it."""
    return database.parent / "mlartifacts"


def ui_command(uri: str) -> str:
    """The shell command that shows the store in a browser, from any folder.

    Args:
        uri: An SQLite store, or the address of a server, which is its own user interface.
    """
    database = local_database(uri)
    if database is None:
        return shlex.join([sys.executable, "-m", "webbrowser", _page(uri)])
    server = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    server += ["--artifacts-destination", str(artifact_root(database))]
    server += ["--host", "127.0.0.1", "--port", "5000", "--workers", "1"]
    # Job execution serves features that irtune has no use for, with a dozen processes and 2 GB.
    return "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false " + shlex.join(server)


def comparison_url(base: str, experiment_id: str, sweep: str, view_id: str | None = None) -> str:
    """The page that lists the runs of a sweep side by side.

    Args:
        base: The server's address, such as ``http://127.0.0.1:5000``.
        experiment_id: MLflow's id of the experiment.
        sweep: The value of the runs' tag ``irtune.sweep``.
        view_id: Show them as this saved view does, from ``MlflowTracker.save_view``; without it the table has no
            columns but name, age and duration.
    """
    shown = {"viewStateShareKey": view_id} if view_id else {"searchFilter": sweep_filter(sweep), "startTime": "ALL"}
    # Without the workflow type the page opens for language model applications, without run tables.
    query = {"workflowType": "machine_learning", **shown}
    return f"{_page(base)}/experiments/{experiment_id}/runs?{urlencode(query, quote_via=quote)}"


def sweep_filter(sweep: str) -> str:
    """MLflow's search expression for the runs of a sweep."""
    return f"tags.`irtune.sweep` = {quoted(sweep)}"


def quoted(text: str) -> str:
    """A string of MLflow's search language, which has no escapes, only two kinds of quotation marks.

    Raises:
        ValueError: The text has both kinds.
    """
    mark = '"' if "'" in text else "'"
    if mark in text:
        raise ValueError(f"MLflow cannot search for {text!r}: a name may hold ' or \" but not both")
    return f"{mark}{text}{mark}"


def _page(base: str) -> str:
    return f"{public_address(base).partition('?')[0].partition('#')[0].rstrip('/')}/#"
