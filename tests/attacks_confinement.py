"""Attacks on the system-call filter, the two tiers and what they leave behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .battery import Attack, World, secret

HIDDEN = "('.env', '.git', 'server.key')"


def _after(does: str, name: str) -> Callable[[World], dict[str, Any]]:
    """Let the host do something in its project after the sandbox has started."""

    def tell(world: World) -> dict[str, Any]:
        getattr(world, does)(name)
        return {}

    return tell


def _left_alive(world: World, _ran: object) -> bool:
    return world.find_left_processes()


CONFINEMENT: list[Attack] = [
    Attack(
        "files and secrets",
        "read a hidden file that was saved anew",
        "print(open(W.project + '/.env').read())",
        secret,
        told=_after("save_anew", ".env"),
    ),
    Attack(
        "files and secrets",
        "read a hidden file that was saved anew, deeper",
        "print(open(W.project + '/deep/server.key').read())",
        secret,
        told=_after("save_anew", "deep/server.key"),
    ),
    Attack(
        "files and secrets",
        "list the names of hidden files",
        "found = []\n"
        "for top in ('.', 'deep', W.project, W.project + '/deep', '/shared'):\n"
        "    for _, folders, files in os.walk(top, followlinks=True):\n"
        "        found += [name for name in folders + files if name in " + HIDDEN + "]\n"
        "judge(found, found)",
    ),
    Attack(
        "files and secrets",
        "learn the names of hidden files from what started it",
        "texts = []\n"
        "for pid in [name for name in os.listdir('/proc') if name.isdigit()]:\n"
        "    for kind in ('cmdline', 'environ', 'mountinfo', 'maps'):\n"
        "        try: texts.append(open(f'/proc/{pid}/{kind}').read())\n"
        "        except OSError: pass\n"
        "    try: opened = os.listdir(f'/proc/{pid}/fd')\n"
        "    except OSError: continue\n"
        "    for fd in opened:\n"
        "        path = f'/proc/{pid}/fd/{fd}'\n"
        "        try:\n"
        "            texts.append(os.readlink(path))\n"
        "            if 'memfd' in texts[-1]: texts.append(open(path).read())\n"
        "        except OSError: pass\n"
        "found = [text for text in texts for name in ('.env', 'server.key') if '/' + name in text]\n"
        "judge(found, found)",
        plain="nothing there hides them",
    ),
    Attack(
        "files and secrets",
        "read a private file of the system's",
        "print(open(W.system_file).read())",
        secret,
    ),
    Attack(
        "files and secrets",
        "learn the names of this machine's users",
        "users = [line.split(':')[0] for line in open('/etc/passwd')]\n"
        "judge(set(users) - {'agent'}, users)",
    ),
    Attack(
        "files and secrets",
        "write into a pipe that appears in a shared folder",
        "os.close(os.open(W.project + '/plain/pipe', os.O_RDWR | os.O_NONBLOCK))\nescaped()",
        told=_after("add_pipe", "plain/pipe"),
    ),
    Attack(
        "network",
        "connect to a socket that appears in a shared folder",
        "socket.socket(socket.AF_UNIX).connect(W.project + '/plain/late.sock')\nescaped()",
        told=_after("add_socket", "plain/late.sock"),
        known={"bubblewrap": "A Unix socket that appears in a shared folder"},
    ),
    *(
        Attack("processes", f"read {path}", f"judge(open({path!r}, 'rb').read(1) != b'')")
        for path in ("/proc/kpageflags", "/proc/cmdline", "/proc/keys", "/proc/sys/kernel/ostype")
    ),
    Attack(
        "closing",
        "outlive its kernel by giving birth again and again",
        "code = 'import os, time\\nfor _ in range(1200):\\n    if os.fork(): os._exit(0)\\n"
        "    os.setsid()\\n    time.sleep(.05)'\n"
        "subprocess.Popen([sys.executable, '-S', '-c', code, W.mark], start_new_session=True)\n"
        "time.sleep(.3)",
        _left_alive,
        closing=True,
    ),
    Attack(
        "closing",
        "outlive its kernel as the adopter of its own orphans",
        "def adopt():\n    os.setsid()\n    libc.prctl(36, 1, 0, 0, 0)\n"
        "    subprocess.Popen(['sh', '-c', '(sleep 60; exit) & sleep 60; exit', W.mark], start_new_session=True)\n"
        "    return 'born'\n"
        "in_child(adopt)",
        _left_alive,
        closing=True,
    ),
    Attack(
        "closing",
        "leave folders too deep for its host to walk",
        "here = os.getcwd()\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\n"
        "os.mkdir('locked', 0)\nos.chdir(here)",
        lambda world, ran: bool(ran.left or ran.raised),
        closing=True,
        plain="nothing is cleaned up after it",
        seconds=20,
    ),
]
