"""A study in a browser: optuna-dashboard on the study's own storage, for looking only."""

import socketserver
import sys
import wsgiref.simple_server
from collections.abc import Callable, Iterable
from typing import Any

from genenet.errors import InputError
from search.storage import open_storage
from search.study import Study

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class _Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that went away in the middle of an answer."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a page asks every few seconds."""


def serve(study: Study, host: str, port: int) -> wsgiref.simple_server.WSGIServer:
    """A server that shows a study; `serve_forever` runs it.

    Args:
        study: Which.
        host: The name or address to listen on.
        port: The port; 0 for one that is free.

    Raises:
        InputError: optuna-dashboard is not installed, or the port is taken.
    """
    try:
        import optuna_dashboard
    except ImportError:
        raise InputError("the dashboard needs a package: pip install optuna-dashboard") from None
    study.optuna_study  # noqa: B018  (there is something to show from the first moment)
    application = for_looking(optuna_dashboard.wsgi(open_storage(study.asked.storage, study.folder)))
    try:
        return wsgiref.simple_server.make_server(host, port, application, server_class=_Server, handler_class=_Quiet)
    except OSError as error:
        raise InputError(f"port {port} of {host} cannot be used: {error.strerror}; name another with --port") from None


def for_looking(application: Application) -> Application:
    """A web application that takes questions only: workers need the trials that it would delete or tell."""

    def answer(environment: dict[str, Any], start: Any) -> Iterable[bytes]:
        if environment["REQUEST_METHOD"] not in ("GET", "HEAD", "OPTIONS"):
            start("403 Forbidden", [("Content-Type", "application/json")])
            return [b'{"reason": "this study can only be looked at here"}']
        return application(environment, start)

    return answer
