"""JupyterLab as a user has it: a server on loopback, and pages of headless Chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.reader import NotJSONError
from nbformat.sign import NotebookNotary
from playwright.sync_api import (
    BrowserContext,
    Locator,
    Page,
    TimeoutError,  # noqa: A004
    WebSocketRoute,
    expect,
    sync_playwright,
)

SCREENSHOTS = Path(__file__).parent / "screenshots"
CHROMIUM = shutil.which("chromium") or ""
PATIENCE = 60_000  # milliseconds: kernels start slowly on a busy machine
expect.set_options(timeout=PATIENCE / 2)  # what is expected comes late there, not never

_SECRETS = ("HF_TOKEN", "OPENAI_API_KEY", "OPENAI_BASE_URL", "JUPYTER_AGENT_MODEL")
_ARGUMENTS = [
    "--no-sandbox",  # chromium's own cannot start as root
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # what a page asks for goes nowhere
    "--no-first-run",
]
_SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "docmanager-extension/plugin": {"renameUntitledFileOnSave": False},  # or it asks for a name
}
# the texts of the Markdown outputs, code left out, at each change of the page
_WATCH = """cell => {
    window.shown = [];
    new MutationObserver(() => {
        const outputs = [...cell.querySelectorAll('.jp-OutputArea-output.jp-RenderedMarkdown')];
        const texts = outputs.map(output => {
            const copy = output.cloneNode(true);
            copy.querySelectorAll('details > :not(summary)').forEach(code => code.remove());
            return copy.textContent.trim();
        });
        window.shown.push(texts.join('\\n'));
    }).observe(cell, {subtree: true, childList: true, characterData: true});
}"""
# What the page says of its kernel is true only once it is connected, which the server knows. Whoever
# runs a cell before that runs nothing, or is asked to select a kernel.
_READY = """async name => {
    const base = JSON.parse(document.querySelector('#jupyter-config-data').textContent).baseUrl;
    const sessions = await (await fetch(`${base}api/sessions`)).json();
    const kernel = sessions.find(each => each.path.endsWith(name))?.kernel;
    const bar = document.querySelector('#jp-main-statusbar');
    const circle = document.querySelector('.jp-Notebook-ExecutionIndicator');
    const says = bar
        ? /\\) \\| (Idle|Busy)/.test(bar.textContent)
        : /idle|busy/.test(circle?.dataset.status);
    return says && kernel?.connections > 0 && /idle|busy/.test(kernel.execution_state);
}"""
# what needs JupyterLab in a page as `window.jupyterapp`
_OPEN = """async path => {
    const open = {path, factory: 'Notebook'};
    await (await window.jupyterapp.commands.execute('docmanager:open', open)).revealed;
}"""
_CLOSE = """() => {
    for (const widget of [...window.jupyterapp.shell.widgets('main')]) widget.dispose();
    delete window.PWNED;
}"""


@dataclass(frozen=True)
class FrontEnd:
    """JupyterLab or Notebook 7, of the Python that runs the tests or of another."""

    name: str = "lab"
    python: str = sys.executable

    @property
    def module(self) -> str:
        return "notebook" if self.name.startswith("notebook") else "jupyterlab"

    @property
    def path(self) -> str:
        return "notebooks" if self.name.startswith("notebook") else "doc/tree"


@dataclass
class Lab:
    """A server that is up."""

    url: str
    folder: Path
    front_end: FrontEnd = field(default_factory=FrontEnd)
    home: Path = Path()
    loaded: list[Page] = field(default_factory=list, repr=False)  # JupyterLab, and no notebook

    def write(self, name: str, *sources: str, kernel: str = "python3") -> Path:
        """Put a notebook with these code cells into the served folder."""
        notebook = nbformat.v4.new_notebook(
            metadata={"kernelspec": {"name": kernel, "display_name": "Python 3"}},
            cells=[nbformat.v4.new_code_cell(source) for source in sources],
        )
        nbformat.write(notebook, self.folder / name)
        return self.folder / name

    def sign(self, path: Path, *, trusted: bool) -> None:
        """Trust a notebook, as ``jupyter trust`` does, or trust it no more."""
        notary = NotebookNotary(data_dir=str(self.home / "data"))
        notebook = nbformat.read(path, as_version=4)
        (notary.sign if trusted else notary.unsign)(notebook)
        notary.store.close()

    def url_of(self, path: Path) -> str:
        return f"{self.url}/{self.front_end.path}/{path.relative_to(self.folder)}"

    def share_kernel(self, browser: BrowserContext, path: Path, other: Path) -> None:
        """Have a notebook that is to be opened use the kernel of another."""
        found = browser.request.get(f"{self.url}/api/sessions").json()
        (kernel,) = [each["kernel"] for each in found if each["path"] == path.name]
        session = {"path": other.name, "name": other.name, "type": "notebook"}
        data = {**session, "kernel": {"id": kernel["id"]}}
        headers = self._headers(browser)
        assert browser.request.post(f"{self.url}/api/sessions", data=data, headers=headers).ok

    def shut_kernels_down(self, browser: BrowserContext) -> None:
        """End every kernel: one that is left takes time from the next test."""
        for kernel in browser.request.get(f"{self.url}/api/kernels").json():
            url = f"{self.url}/api/kernels/{kernel['id']}"
            browser.request.delete(url, headers=self._headers(browser))

    def _headers(self, browser: BrowserContext) -> dict[str, str]:
        found = {cookie["name"]: cookie["value"] for cookie in browser.cookies(self.url)}
        return {"X-XSRFToken": found.get("_xsrf", "")}


@dataclass
class NotebookPage:
    """A notebook open in a page."""

    page: Page
    path: Path
    url: str
    requests: list[str] = field(default_factory=list, repr=False)
    faults: list[str] = field(default_factory=list, repr=False)  # of our extension's code
    routed: bool = False

    def __post_init__(self) -> None:
        self._handlers: dict[Any, Callable[[Any], None]] = {
            "request": lambda request: self.requests.append(request.url),
            "pageerror": lambda error: self._fault(f"{error}\n{error.stack}"),
            "console": lambda said: self._fault(said.text) if said.type == "error" else None,
        }
        for event, handler in self._handlers.items():
            self.page.on(event, handler)

    def _fault(self, said: str) -> None:
        if "jupyter-agent-kernel" in said:  # the path of its code, in the trace
            self.faults.append(said)

    @property
    def cells(self) -> Locator:
        return self.page.locator(".jp-Notebook .jp-Cell")

    def choose(self, *entries: str) -> None:
        """Go through the menus to a command."""
        for entry in entries:
            text = self.page.get_by_text(entry, exact=True)
            self.page.locator(".lm-MenuBar-item, .lm-Menu-item").filter(has=text).click()

    def command(self, index: int, *keys: str) -> None:
        """Select a cell and press keys in command mode."""
        prompt = self.cells.nth(index).locator(".jp-InputPrompt, .jp-InputArea-prompt").first
        prompt.click()
        for key in keys:
            self.page.keyboard.press(key)

    def edit(self, index: int, text: str) -> None:
        """Put text in the place of a code cell's source."""
        self.cells.nth(index).locator(".cm-content").click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(text)

    def close(self) -> None:
        """Close the notebook, and leave JupyterLab as it was loaded."""
        self.page.evaluate(_CLOSE)
        self.page.mouse.move(0, 0)
        for event, handler in self._handlers.items():
            self.page.remove_listener(event, handler)

    def route_channels(self, handler: Callable[[WebSocketRoute], None]) -> None:
        """Stand between the page, once it is loaded again, and the kernel."""
        self.routed = True
        self.page.route_web_socket(re.compile("/channels"), handler)

    def leave(self) -> None:
        """Close the notebook; `reload` opens it again."""
        self.page.goto("about:blank")

    def outputs(self, index: int) -> Locator:
        """The outputs of a cell, in their order."""
        return self.cells.nth(index).locator(".jp-OutputArea-output")

    def text(self, index: int) -> str:
        """What the outputs of a cell say."""
        return "\n".join(self.outputs(index).all_inner_texts())

    def run_all(self) -> None:
        """Run every cell and wait until they are done."""
        self.choose("Run", "Run All Cells")
        for prompt in self.page.locator(".jp-CodeCell .jp-InputPrompt").all():
            self._numbered(prompt)

    def start(self, index: int) -> None:
        """Run one cell and do not wait for it."""
        self.cells.nth(index).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")

    def done(self, index: int, *, timeout: float = PATIENCE) -> None:
        """Wait until a cell's prompt shows its number."""
        self._numbered(self.cells.nth(index).locator(".jp-InputPrompt"), timeout=timeout)

    def run(self, index: int) -> None:
        """Run one cell and wait until it is done."""
        self.start(index)
        self.done(index)

    def interrupt(self) -> None:
        """Press the stop button."""
        self.page.locator('[data-command="notebook:interrupt-kernel"]').first.click()

    def watch(self, index: int) -> None:
        """Keep from now on each text that a cell's Markdown outputs show."""
        self.cells.nth(index).evaluate(_WATCH)

    def shown(self) -> list[str]:
        """Every text that was shown since `watch`, however briefly."""
        texts: list[str] = self.page.evaluate("window.shown")
        return texts

    def save(self) -> NotebookNode:
        """Save the notebook and read its file."""
        for _ in range(5):
            try:
                with self.page.expect_response(
                    lambda response: (
                        response.request.method == "POST" and "/checkpoints" in response.url
                    ),  # the last thing that a save does
                    timeout=PATIENCE / 6,
                ) as saved:
                    self.page.locator('[data-jp-item-name="save"]').first.click()
                assert saved.value.ok
                return nbformat.read(self.path, as_version=4)
            except (TimeoutError, NotJSONError):
                continue  # JupyterLab drops a save while another goes on, or that one has begun
        raise AssertionError("the notebook cannot be saved")

    def use_theme(self, theme: str) -> None:
        """Choose a theme; it stays JupyterLab's for pages to come."""
        self.choose("Settings", "Theme", theme)
        expect(self.page.locator("body")).to_have_attribute("data-jp-theme-name", theme)

    def reload(self) -> None:
        if self.page.url == "about:blank":
            self.page.goto(self.url)
        else:
            self.page.reload()
        self._settle()

    def screenshot(self, name: str) -> None:
        SCREENSHOTS.mkdir(exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")

    def _settle(self) -> None:
        """Wait until the notebook is there and its kernel is ready."""
        expect(self.cells.first).to_be_visible(timeout=PATIENCE)
        expect(self.page.locator("#jupyterlab-splash")).to_have_count(0, timeout=PATIENCE)
        # not the toolbar's circle: it shows idle before there is a kernel, and whoever runs a cell
        # then is asked to select one
        end = time.monotonic() + PATIENCE / 1000
        while not self.page.evaluate(_READY, self.path.name):
            assert time.monotonic() < end, "the page has no kernel"
            self.page.wait_for_timeout(100)

    def _numbered(self, prompt: Locator, *, timeout: float = PATIENCE) -> None:
        expect(prompt).to_have_text(re.compile(r"\[\d+\]"), timeout=timeout)


@contextmanager
def serving(
    folder: Path,
    home: Path,
    front_end: FrontEnd | None = None,
    *,
    live: bool = True,
    prefix: str = "",
) -> Iterator[Lab]:
    """Serve a folder with a front end, with our extension or without.

    Parameters
    ----------
    home
        Where all of its own files are.
    prefix
        Of the paths of its URLs, as JupyterHub gives one to each user: "/user/ann".
    """
    front_end = front_end or FrontEnd()
    port = _free_port()
    for name, settings in _SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(settings))
    if not live:
        config = home / "config" / "labconfig"
        config.mkdir(parents=True)
        off = '{"disabledExtensions": {"jupyter-agent-kernel": true}}'
        (config / "page_config.json").write_text(off)
    command = [front_end.python, "-m", front_end.module, "--allow-root", "--no-browser"]
    command += ["--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    command += [f"--ServerApp.base_url={prefix}/"]
    command += ["--LabApp.news_url=None"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    command += ["--expose-app-in-browser"]
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=home, env=_environment(home, front_end), stdout=log, stderr=log
        )
        try:
            lab = Lab(f"http://127.0.0.1:{port}{prefix}", folder, front_end, home)
            _wait_for(lab, server, home / "log")
            yield lab
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@contextmanager
def browsing() -> Iterator[BrowserContext]:
    """Start Chromium; its pages share a cache, so that JupyterLab loads fast after the first."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        try:
            yield browser.new_context()
        finally:
            browser.close()


@contextmanager
def opened(
    lab: Lab, browser: BrowserContext, path: Path, *, height: int = 1000
) -> Iterator[NotebookPage]:
    """Open a notebook, in a page in which another has been open if there is one.

    To load JupyterLab takes ten times as long as to open a notebook in it.
    """
    found = [page for page in lab.loaded if page.context == browser]
    if not found:
        with opened_anew(lab, browser, path, height=height) as notebook:
            yield notebook
            _keep(lab, notebook)
        return
    page = found[0]
    lab.loaded.remove(page)
    page.set_viewport_size({"width": 1280, "height": height})
    try:
        notebook = NotebookPage(page, path, lab.url_of(path))
        page.evaluate(_OPEN, str(path.relative_to(lab.folder)))
        notebook._settle()
        yield notebook
        assert notebook.faults == []
        _keep(lab, notebook)
    finally:
        if page not in lab.loaded:
            page.close()


@contextmanager
def opened_anew(
    lab: Lab, browser: BrowserContext, path: Path, *, height: int = 1000
) -> Iterator[NotebookPage]:
    """Open a notebook in a page of its own."""
    page = browser.new_page()
    try:
        page.set_default_timeout(PATIENCE / 2)
        page.set_viewport_size({"width": 1280, "height": height})
        notebook = NotebookPage(page, path, lab.url_of(path))
        page.goto(f"{notebook.url}?reset")
        notebook._settle()
        yield notebook
        assert notebook.faults == []
    finally:
        if page not in lab.loaded:
            page.close()


def _keep(lab: Lab, notebook: NotebookPage) -> None:
    """Close a notebook and keep its page for the next, if it is as JupyterLab loads it."""
    context = notebook.page.context
    spare = any(page.context == context for page in lab.loaded)
    usable = not (notebook.page.is_closed() or notebook.routed)
    if usable and "/doc/tree/" in notebook.page.url and not spare:
        notebook.close()
        lab.loaded.append(notebook.page)


@contextmanager
def launched(lab: Lab, browser: BrowserContext, kernel: str) -> Iterator[NotebookPage]:
    """Make a new notebook from the launcher."""
    path = lab.folder / "Untitled.ipynb"
    path.unlink(missing_ok=True)
    page = browser.new_page()
    try:
        page.set_viewport_size({"width": 1280, "height": 1400})
        notebook = NotebookPage(page, path, f"{lab.url}/doc/tree/{path.name}")
        page.goto(f"{lab.url}/lab?reset")
        card = page.locator(f'.jp-LauncherCard[title="{kernel}"]').first
        expect(page.locator("#jupyterlab-splash")).to_have_count(0, timeout=PATIENCE)
        card.click(timeout=PATIENCE)
        notebook._settle()
        yield notebook
        assert notebook.faults == []
    finally:
        page.close()


def _environment(home: Path, front_end: FrontEnd) -> dict[str, str]:
    names = {
        "IPYTHONDIR": "ipython",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }
    kept = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    own = {name: str(home / folder) for name, folder in names.items()}
    path = f"{Path(front_end.python).parent}{os.pathsep}{os.environ['PATH']}"
    return kept | own | {"HF_TOKEN_PATH": "/nonexistent/token", "PATH": path}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _wait_for(lab: Lab, server: subprocess.Popen[Any], log: Path) -> None:
    end = time.monotonic() + 2 * PATIENCE / 1000
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{lab.url}/api", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")
