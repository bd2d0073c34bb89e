"""Which files look like secrets, by their names and by what stands in them."""

from __future__ import annotations

import base64
import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_agent.sandbox import secret_files
from jupyter_agent.sandbox.secret_files import (
    could_hold_secret,
    holds_secret,
    is_secret_folder,
    is_secret_name,
)

from .names import ORDINARY, SECRET

COPIES = (
    "{}.bak", "{}.old", "{}~", "{}.orig", "{}.save", "{}.swp", "{}.gz", "{}.zip", "{}.tar.gz",
    "{}.1", "{}.2024-01-31", "{}.bak.2", "#{}#", "Copy of {}", "{} (1)", "{}-copy", "{}_backup",
    "{}.BAK", "{}.gpg", " {} ",
)  # fmt: skip
STEM_COPIES = ("{} (1).{}", "{} copy.{}", "{}-old.{}", "{}_2024-01-31.{}", "{}_v2.{}", "{}-prod.{}")


MORE_NAMES = """\
2fa-codes.txt GoogleService-Info.plist Pulumi.prod.yaml ansible-vault.yml appsettings.Production.json
authinfo authinfo.gpg azure.json database.yaml dotenv google-services.json heapdump.hprof keyfile.json
keys.json keys.txt login.txt logins memory.dmp my_keys.txt oauth2.json pass.txt sa-key.json seed.txt
slack_webhook.txt tokens.json tokens.yaml totp.txt wallet.json wandb-netrc web.config webhook_url.txt
wachtwoorden.txt пароли.txt 密码.txt パスワード.txt 비밀번호.txt
""".split()  # fmt: skip
MORE_ORDINARY = """\
added_tokens.json connection_speeds.json core core.py core_features.csv keyboard.csv keys.csv
keywords.csv login_events.csv logins.log monkeys.csv parameters.yml parameters.yaml pass_rates.json
seed_data.txt seeds.csv seeds.txt seeds_dataset.txt token_stats.json tokenizer.json tokens.csv
tokens.txt tokens_per_sentence.csv wallets.csv wallets_prices.csv webhook_events.json sam.csv
bitwarden_breach_study.csv keepass_downloads.csv passport_photos.json parole.csv totp_adoption.csv
""".split()  # fmt: skip
MANAGERS = "1password bitwarden dashlane keepass lastpass nordpass Proton_Pass".split()


def randomly(alphabet: str, length: int) -> str:
    """Write a value such as services give out, the same each time."""
    return "".join(random.Random(f"{alphabet}{length}").choices(alphabet, k=length))


DIGITS = "0123456789"
HEX = DIGITS + "abcdef"
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
ALL = LETTERS + DIGITS
UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
KEY = "\n".join([randomly(ALL, 64)] * 8)
JWT = ".".join(
    base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
    for part in ({"alg": "HS256", "typ": "JWT"}, {"sub": "1", "name": "somebody"})
)
# put together here, so that no scanner takes this file for one that leaks
SECRETS_IN_TEXTS = {
    "RSA key": f"-----BEGIN RSA PRIVATE KEY-----\n{KEY}\n-----END RSA PRIVATE KEY-----\n",
    "encrypted key": "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"
    f"DEK-Info: AES,00FF\n\n{KEY}\n",
    "OpenSSH key": f"-----BEGIN OPENSSH PRIVATE KEY-----\r\n{KEY}\r\n",
    "PGP key": f"-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: 1\n\n{KEY}\n",
    "key in Python": 'KEY = """-----BEGIN PRIVATE KEY-----\n' + KEY + '"""',
    "PuTTY key": f"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n{KEY}",
    "age key": "# created\nAGE-SECRET-KEY-1" + randomly("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58),
    "WireGuard": f"[Interface]\nPrivateKey = {randomly(ALL, 43)}=\n",
    "service account": json.dumps(
        {"type": "service_account", "private_key": f"-----BEGIN PRIVATE KEY-----\n{KEY}\n"}
    ),
    "notebook": json.dumps({"cells": [{"source": [f'key = "sk-proj-{randomly(ALL, 90)}"\n']}]}),
    "AWS id": f'id = "AKIA{randomly(UPPER, 16)}"',
    "AWS secret": f"aws_secret_access_key = {randomly(ALL + '/+', 40)}",
    "Google": f"AIza{randomly(ALL, 35)}",
    "Google client": f"GOCSPX-{randomly(ALL, 28)}",
    "Azure storage": f"AccountName=a;AccountKey={randomly(ALL, 86)}==;",
    "Azure client": f"'{randomly(ALL, 3)}8Q~{randomly(ALL, 34)}'",
    "DigitalOcean": f"dop_v1_{randomly(HEX, 64)}",
    "Vault": f"hvs.{randomly(ALL, 95)}",
    "Databricks": f"dapi{randomly(HEX, 32)}",
    "Anthropic": f"sk-ant-api03-{randomly(ALL + '-_', 93)}AA",
    "OpenAI": f"sk-{randomly(ALL, 20)}T3BlbkFJ{randomly(ALL, 20)}",
    "OpenRouter": f"sk-or-v1-{randomly(HEX, 64)}",
    "Hugging Face": f"hf_{randomly(LETTERS, 34)}",
    "Groq": f"gsk_{randomly(ALL, 52)}",
    "GitHub": f"ghp_{randomly(ALL, 36)}",
    "GitHub fine": f"github_pat_{randomly(ALL, 22)}_{randomly(ALL, 59)}",
    "GitLab": f"glpat-{randomly(ALL, 20)}",
    "npm": f"//registry.npmjs.org/:_authToken=npm_{randomly(ALL, 36)}",
    "PyPI": f"pypi-AgEIcHlwaS5vcmc{randomly(ALL, 80)}",
    "Slack": f"xoxb-{randomly(DIGITS, 12)}-{randomly(DIGITS, 12)}-{randomly(ALL, 24)}",
    "Slack hook": f"https://hooks.slack.com/services/{randomly(ALL, 44)}",
    "Stripe": f"sk_live_{randomly(ALL, 24)}",
    "SendGrid": f"SG.{randomly(ALL, 22)}.{randomly(ALL, 43)}",
    "Telegram": f"token = '{randomly(DIGITS[1:], 10)}:AA{randomly(ALL, 33)}'",
    "JWT": f"{JWT}.{randomly(ALL, 43)}",
    "database": "engine = create_engine('postgresql+psycopg2://anna:h7Kq-2w@db.corp.internal/x')",
    "database without user": "redis://:h7Kq2wPP@cache.corp.internal:6379",
    "URL of a remote": f"url = https://anna:{randomly(HEX, 20)}@git.corp.org/x.git",
    "netrc": "machine api.corp.org login anna password h7Kq2wPP",
    "htpasswd": f"anna:$apr1${randomly(ALL, 8)}${randomly(ALL, 22)}",
    "shadow": f"root:$6${randomly(ALL, 8)}${randomly(ALL, 86)}:19000:0:::::",
    "Docker": json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": randomly(ALL, 24)}}}),
    "header": f"headers = {{'Authorization': 'Bearer {randomly(ALL, 40)}'}}",
    "kubeconfig": f"    client-key-data: {randomly(ALL, 200)}",
}
IN_SETTINGS = {
    "ini": "[db]\npassword = h7Kq2wPP!x",
    "YAML": "db:\n  password: 'h7Kq2wPP!x'",
    "JSON": '{"api_key": "h7Kq2wPPx9"}',
    "TOML": 'secret_key = "h7Kq2wPPx9"',
}
INNOCENT = {
    "public key": f"-----BEGIN PUBLIC KEY-----\n{KEY}",
    "certificate": f"-----BEGIN CERTIFICATE-----\n{KEY}",
    "code about keys": 'if "-----BEGIN RSA PRIVATE KEY-----" in text:\n    raise ValueError',
    "AWS's own example": "AKIAIOSFODNN7EXAMPLE",
    "placeholders": f"ghp_{'x' * 36}\nOPENAI_API_KEY=sk-{'x' * 48}",
    "environment": "password = os.environ['DB_PASSWORD']\napi_key: ${API_KEY}\ntoken: <your token>",
    "example URL": "postgresql://user:password@localhost:5432/db https://user:pass@example.com/",
    "times": "http://localhost:8080/a@b 10:30@12",
    "tokenizer": '{"bos_token": "<|endoftext|>", "eos_token": "</s>", "pad_token": "[PAD]"}',
    "hashes": "sha256:" + randomly(HEX, 64) + "\n" + randomly(HEX, 40),
    "UUIDs": "id\n3f2504e0-4f89-11d3-9a0c-0305e82c3301\n",
    "base64": randomly(ALL + "+/", 4000),
    "prose": "The password: choose a good one. Tokens are words; keys open doors.",
}


def test_names_that_security_engineers_list_are_secret() -> None:
    missed = [name for name in SECRET if not is_secret_name(name)]
    assert len(SECRET) > 250
    assert len(missed) / len(SECRET) < 0.02, missed


def test_names_of_ordinary_data_are_not() -> None:
    hits = [name for name in ORDINARY if is_secret_name(name)]
    assert len(ORDINARY) > 200
    assert len(hits) / len(ORDINARY) < 0.02, hits


def test_more_names_are_judged_by_their_kind() -> None:
    assert [name for name in MORE_NAMES if not is_secret_name(name)] == []
    assert [name for name in MORE_ORDINARY if is_secret_name(name)] == []


@pytest.mark.parametrize("ending", ["csv", "json", "txt", "xml", "html", "zip", "1pux"])
def test_exports_of_password_managers_are_secret(ending: str) -> None:
    for manager in MANAGERS:
        for stem in (manager, f"{manager}_export", f"{manager}-vault-2024-01-31"):
            assert is_secret_name(f"{stem}.{ending}"), stem


@pytest.mark.parametrize(
    "names",
    [
        ("token", "tokens"),
        ("key.json", "keys.json"),
        ("login.csv", "logins.csv"),
        ("vault.yml", "vault.yaml"),
        ("api-key.txt", "api-keys.txt"),
        ("secrets.yaml", "sécrets.yaml"),
        ("contrasenas.txt", "contraseñas.txt"),
        ("credentials.json", "crédentials.json"),
    ],
)
def test_plurals_accents_and_spellings_of_endings_change_nothing(names: tuple[str, str]) -> None:
    assert all(map(is_secret_name, names))  # fmt: skip


KNOWN = [name for name in SECRET if is_secret_name(name)]


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_of_a_secret_is_one(copy: str) -> None:
    copies = [copy.format(name) for name in KNOWN]
    assert [each for each in copies if not is_secret_name(each)] == []
    assert [each for each in copies if not is_secret_name(each.upper())] == []


@pytest.mark.parametrize("copy", STEM_COPIES)
def test_a_copy_that_keeps_its_ending_is_one(copy: str) -> None:
    for name in ("credentials.json", "secrets.toml", "server.key", "prod.env", "token.json"):
        assert is_secret_name(copy.format(*name.split("."))), name


def test_letters_that_look_alike_change_nothing() -> None:
    for name in KNOWN:
        wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in name)
        assert is_secret_name(wide), name
        assert is_secret_name(name[:2] + "\u200b" + name[2:]), name


@settings(deadline=None)
@given(st.text(max_size=255))
def test_any_name_is_judged(name: str) -> None:
    assert is_secret_name(name) in (True, False)
    assert is_secret_folder(name) in (True, False)


@pytest.mark.parametrize(
    "name", ["secrets", "Credentials", "private_keys", ".git", "ssh-keys", "a.keychain"]
)
def test_folders_where_secrets_are_kept(name: str) -> None:  # fmt: skip
    assert is_secret_folder(name)


@pytest.mark.parametrize(
    "name", ["data", "env", "keys", "tokens", "secret_santa", "password_study"]
)
def test_folders_of_data_are_none(name: str) -> None:
    assert not is_secret_folder(name)


@pytest.mark.parametrize("what", SECRETS_IN_TEXTS)
def test_a_secret_is_found_in_a_text(tmp_path: Path, what: str) -> None:
    for name in ("notes.md", "analysis.py", "plain"):
        (tmp_path / name).write_text(f"some text\n\n{SECRETS_IN_TEXTS[what]}\nmore\n")
        assert holds_secret(str(tmp_path / name)), name
    (tmp_path / "wide.txt").write_text(SECRETS_IN_TEXTS[what], encoding="utf-16")
    assert holds_secret(str(tmp_path / "wide.txt"))


@pytest.mark.parametrize(
    ("endings", "before"),
    [("htm html kml md py rst rtf svg tex txt", 200_000), ("csv geojson jsonl ndjson tsv", 14_000)],
)
def test_a_secret_is_found_far_from_the_start(tmp_path: Path, endings: str, before: int) -> None:
    for ending in endings.split():
        path = tmp_path / f"report.{ending}"
        path.write_text("a line\n" * (before // 7) + SECRETS_IN_TEXTS["RSA key"])
        assert holds_secret(str(path)), ending


@pytest.mark.parametrize("what", IN_SETTINGS)
def test_a_password_is_found_in_settings_alone(tmp_path: Path, what: str) -> None:
    for name, found in (("app.conf", True), ("app.yaml", True), ("app", True), ("app.py", False)):
        (tmp_path / name).write_text(IN_SETTINGS[what])
        assert holds_secret(str(tmp_path / name)) is found


@pytest.mark.parametrize("what", INNOCENT)
def test_what_only_resembles_a_secret_is_none(tmp_path: Path, what: str) -> None:
    for name in ("a.py", "a.yaml", "a.csv", "a"):
        (tmp_path / name).write_text(INNOCENT[what])
        assert not holds_secret(str(tmp_path / name)), name


def test_a_file_is_read_anew_when_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("nothing")
    assert not holds_secret(str(path))
    path.write_text(f"ghp_{randomly(ALL, 36)}")
    assert holds_secret(str(path))


def test_nothing_but_a_regular_file_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link", "gone", "."):
        assert not holds_secret(str(tmp_path / name))  # a pipe would be waited for


def test_pictures_and_archives_are_not_looked_into() -> None:
    assert not any(map(could_hold_secret, ["a.png", "a.PARQUET", "a.zip", "a.so"]))
    assert all(map(could_hold_secret, ["a.csv", "a.py", "a.ipynb", "a", ".a", "a.txt", "a.log"]))


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_text_is_judged(text: bytes) -> None:
    assert secret_files._is_secret_text(text, settings=True) in (True, False)
