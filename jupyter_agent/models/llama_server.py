"""Serve one GGUF file by llama.cpp at a Unix socket, for as long as standard input is open.

`jupyter_agent.models.local` runs this as a script, with `ServerSettings` as JSON in its
argument. It prints the socket's path when the model is ready. llama.cpp gets a process of its own
because in the user's it would hold the GIL while it loads a model, could not be stopped while it
reads a prompt, and would end the kernel where it meets a fault of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, TypedDict

__all__ = ["ServerSettings", "main"]

ERRORS_ONLY = 1  # of what llama.cpp logs
MIN_CONTEXT = 4096  # tokens, however little memory there is
BATCH = 256  # tokens of a prompt that are read at once: a cancelled request goes on for these
MAX_CACHED_PROMPTS = 512  # MiB for prompts that come again after others


class ServerSettings(TypedDict):
    """What to serve, and with what."""

    file: str
    folder: str  # in which a folder for the socket is made
    threads: int
    memory: int  # bytes for the weights and the context; a smaller context is used if need be


def main() -> None:
    """Serve until standard input ends, then be killed."""
    settings: ServerSettings = json.loads(sys.argv[1])
    folder = tempfile.mkdtemp(prefix="llama-", dir=settings["folder"])  # mode 700
    _end_with_input(folder)
    socket = str(Path(folder, "s.sock"))  # llama.cpp knows a socket by this ending
    server = _serve(settings, socket)
    print(socket, flush=True)  # noqa: T201
    while server:
        signal.pause()


def _end_with_input(folder: str) -> None:
    """Have another process kill this one when standard input ends, and remove the folder.

    While llama.cpp loads, no code of Python's runs here.
    """
    server = os.getpid()
    if os.fork():
        return
    os.close(sys.stdout.fileno())
    while os.read(sys.stdin.fileno(), 1):
        pass
    if os.getppid() == server:
        os.kill(server, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _serve(settings: ServerSettings, socket: str) -> Any:
    from xllamacpp import CommonParams, Server

    params = CommonParams()
    params.model.path = settings["file"]
    params.hostnames = [socket]
    params.n_parallel = 1  # the whole context is for one request; others wait for its end
    params.n_threads_http = 4
    for cpus in (params.cpuparams, params.cpuparams_batch):
        cpus.n_threads, cpus.poll = settings["threads"], 0
    params.n_batch = params.n_ubatch = BATCH
    params.n_ctx = 0  # what the model was trained on, or what fits
    params.fit_params = True
    params.fit_params_min_ctx = MIN_CONTEXT
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # as llama.cpp sees it
    spared = max(0, free - settings["memory"])
    params.fit_params_target = [spared for _ in params.fit_params_target]
    params.cache_ram_mib = MAX_CACHED_PROMPTS
    params.sampling.seed = 0  # the same request gets the same reply
    params.verbosity = ERRORS_ONLY
    params.warmup = params.ui = params.endpoint_slots = False
    return Server(params)


if __name__ == "__main__":
    main()
