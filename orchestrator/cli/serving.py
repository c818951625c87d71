"""`manyworlds serve`: an ensemble that answers over HTTP."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from orchestrator.cli.arguments import Arguments
from orchestrator.cli.output import show
from orchestrator.ensemble.artefact import open_artefact
from orchestrator.schema import Layer, from_overrides, made
from orchestrator.serving.settings import ServingConfig
from orchestrator.words import plural
from workers.errors import ConfigError

_ENSEMBLE = "a run or an ensemble"
_CLUSTER = "cluster="


def serve(arguments: Arguments) -> int:
    """Answer over HTTP until somebody ends it."""
    uri = arguments.first(_ENSEMBLE)
    clusters = [word for word in arguments.words[1:] if word.startswith(_CLUSTER)]
    words = [word for word in arguments.words[1:] if word not in clusters]
    config = made(ServingConfig, [Layer("", {"ensemble": uri}), from_overrides(words)]).validate()
    address = clusters[-1].removeprefix(_CLUSTER) if clusters else "auto"
    config.secret()
    # Said here in a sentence, and not by each replica in its log.
    manifest = open_artefact(uri).manifest
    # What Kubernetes sends first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), _served(config, address) as (url, wait):
        classes, worlds = manifest.config.data.classes, plural(len(manifest.members), "world")
        show(
            [
                f"serving {uri}: ensemble {manifest.digest}, {classes:,} classes, {worlds}",
                f"  {url} in a browser, or",
                f"  curl {url}/predict --json '{_example(manifest.config.data.text)}'",
                "Ctrl-C ends it.",
            ]
        )
        wait()
    show(["stopped"])
    return 0


@contextmanager
def _served(config: ServingConfig, address: str) -> Iterator[tuple[str, Callable[[], None]]]:
    try:
        if address == "none":
            from orchestrator.serving import alone

            with alone.serving(config) as url:
                yield url, alone.wait
            return
        from orchestrator.executors import serve

        with serve.serving(config, address, tell=lambda line: show([line])) as url:
            yield url, serve.wait
    except ImportError as error:
        raise ConfigError(
            f"expected Ray Serve and FastAPI, found that something is missing ({error});"
            " install 'manyworlds[serve]'"
        ) from error


def _example(text: tuple[str, ...]) -> str:
    return '{"texts": ["your question"]}' if len(text) == 1 else '{"rows": [...]}'
