"""Attacks on what is shared of the host's files, and what looks like a secret."""

from __future__ import annotations

from .battery import SECRET_NAMES, Attack, secret

READ = """
import os
for name in names:
    try:
        print(open(os.path.join(W.project, name), 'rb').read())
    except OSError as error:
        print(error)
"""
FIND = """
import os
for top, folders, names in os.walk(W.root + '/code'):
    for name in names:
        path = os.path.join(top, name)
        if os.path.isfile(path):
            try:
                print(open(path).read())
            except OSError as error:
                print(error)
"""
CONNECT = """
socket.socket(socket.AF_UNIX).connect(W.root + '/code/package_of_mine/agent.sock')
escaped()
"""

SHARING: list[Attack] = [
    *(
        Attack(
            "files and secrets", f"read {name} beside the data", f"names={[name]}\n{READ}", secret
        )
        for name in SECRET_NAMES
    ),
    Attack(
        "files and secrets",
        "read a note, a notebook and a script that hold a token",
        f"names=['notes.txt', 'old.ipynb', 'load.py']\n{READ}",
        secret,
    ),
    Attack("files and secrets", "read what stands beside modules on the path", FIND, secret),
    Attack("files and secrets", "connect to a socket beside modules on the path", CONNECT),
]
