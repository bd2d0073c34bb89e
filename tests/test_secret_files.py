"""Which files look like secrets, by their names and by what stands in them."""

from __future__ import annotations

import base64
import errno
import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_agent.sandbox.isolation import secret_contents
from jupyter_agent.sandbox.isolation.secret_contents import could_hold_secret, holds_secret
from jupyter_agent.sandbox.isolation.secret_names import is_secret_folder, is_secret_name

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
    "Airtable": f"pat{randomly(ALL, 14)}.{randomly(HEX, 64)}",
    "Azure SAS": f"https://a.blob.core.windows.net/c?sv=2022&sp=r&sig={randomly(ALL, 43)}%3D",
    "Cisco": f"enable secret 5 $1${randomly(ALL, 4)}${randomly(ALL, 22)}",
    "Discord": f"M{randomly(ALL, 23)}.{randomly(ALL, 6)}.{randomly(ALL, 27)}",
    "Discord hook": f"https://discord.com/api/webhooks/{randomly(DIGITS, 18)}/{randomly(ALL, 68)}",
    "Doppler": f"dp.pt.{randomly(ALL, 43)}",
    "Dynatrace": f"dt0c01.{randomly(UPPER, 24)}.{randomly(UPPER, 64)}",
    "Facebook": f"EAACEdEose0cBA{randomly(ALL, 120)}",
    "Fly": f"FlyV1 fm2_{randomly(ALL + '+/', 120)}",
    "geth": json.dumps({"crypto": {"ciphertext": randomly(HEX, 64), "kdf": "scrypt"}}),
    "key in base64": base64.b64encode(f"-----BEGIN EC PRIVATE KEY-----\n{KEY}".encode()).decode(),
    "LangSmith": f"lsv2_pt_{randomly(HEX, 32)}_{randomly(HEX, 10)}",
    "Mailgun": f"key-{randomly(HEX, 32)}",
    "Netlify": f"nfp_{randomly(ALL, 36)}",
    "New Relic": f"NRAK-{randomly(UPPER, 27)}",
    "Notion": f"secret_{randomly(ALL, 43)}",
    "one-time password": f"otpauth://totp/anna?secret={randomly(UPPER, 32)}&issuer=x",
    "seed phrase": "mnemonic: "
    + " ".join("legal winner thank year wave sausage worth".split() * 2)[:71],
    "Sentry": f"sntrys_{randomly(ALL + '+/', 60)}_{randomly(ALL, 43)}",
    "Twilio": f"SK{randomly(HEX, 32)}",
    "on a line in JSON": json.dumps({"text": f"my key:\nghp_{randomly(ALL, 36)}\n"}),
    "in colour": json.dumps({"text": f"\x1b[32mghp_{randomly(ALL, 36)}\x1b[0m"}),
    "Kubernetes in JSON": json.dumps({"kind": "Secret", "data": {"tls.key": "VVlT6L12Qo9="}}),
    "Kubernetes": "apiVersion: v1\nkind: Secret\nmetadata:\n  name: x\ndata:\n  pw: VVlT6L12Qo9=\n",
}
# what somebody writes into a script or a notebook to log in
PASSWORD = randomly(ALL, 14)
HUMAN = "Tulpen&Regen27"
LOGINS = {
    "argument": f"psycopg2.connect(host='db', user='anna', password='{PASSWORD}')",
    "a human's": f'connect(user="anna", password="{HUMAN}")',
    "short name": f"conn = connect('db', passwd=\"{PASSWORD}\")",
    "constant": f"DB_PASSWORD: str = '{PASSWORD}'",
    "generic type": f"TOKEN: Final[str] = '{randomly(ALL, 40)}'",
    "Rust": f'let password: &str = "{PASSWORD}";',
    "R": f"con <- dbConnect(Postgres(), password = '{PASSWORD}')",
    "R's arrow": f"password <- '{PASSWORD}'",
    "Go": f'password := "{PASSWORD}"',
    "PHP": f"'password' => '{PASSWORD}',",
    "dict": f'{{"user": "anna", "password": "{PASSWORD}"}}',
    "variable": f"os.environ['API_KEY'] = '{PASSWORD * 3}'",
    "default": f"os.getenv('DB_PASSWORD', '{PASSWORD}')",
    "setdefault": f"os.environ.setdefault('DB_PASSWORD', '{PASSWORD}')",
    "comparison": f"if password == '{PASSWORD}':",
    "API key": f"client = Client(api_key='{randomly(HEX, 32)}')",
    "Django": f"SECRET_KEY = 'django-insecure-{randomly(ALL + '#!)&', 50)}'",
    "pair": f"requests.get(url, auth=('anna', '{PASSWORD}'))",
    "basic": f"HTTPBasicAuth('anna', '{PASSWORD}')",
    "mail": f"smtp.login('anna@corp.net', '{PASSWORD}')",
    "FTP": f"ftp = FTP('ftp.corp.net', 'anna', '{PASSWORD}')",
    "header": f"headers = {{'X-Auth-Token': '{randomly(ALL, 32)}'}}",
    "XML": f"<server><username>a</username><password>{PASSWORD}</password></server>",
    "property": f'<property name="password" value="{PASSWORD}"/>',
    "ODBC": f"connect('DRIVER={{SQL}};SERVER=x;UID=sa;PWD={PASSWORD};')",
    "DSN": f"connect('host=db user=anna password={PASSWORD} dbname=x')",
    "shell": f"!PGPASSWORD={PASSWORD} psql -h db",
    "curl": f"!curl -u anna:{PASSWORD} https://api.corp.net/",
    "header of curl": f"!curl -H 'X-Auth-Token: {randomly(ALL, 32)}' https://api.corp.net/",
    "mysql": f"!mysql -u root -p{PASSWORD} prod",
    "sshpass": f"!sshpass -p '{PASSWORD}' ssh anna@host",
    "option": f"!tool --password '{PASSWORD}'",
    "bare option": f"!az login --service-principal --password {PASSWORD}",
    "XML in pairs": f"<name>fs.secret.key</name><value>{randomly(ALL, 40)}</value>",
    "LaTeX": f"\\verb|password={PASSWORD}|",
    "SQL": f"CREATE USER anna IDENTIFIED BY '{PASSWORD}'",
    "PowerShell": f"ConvertTo-SecureString '{PASSWORD}' -AsPlainText -Force",
    "Wi-Fi": f'psk="{PASSWORD}"',
    "session": f"aws_session_token = '{randomly(ALL + '/+', 200)}'",
    "query": f"https://api.corp.net/v1?api_key={randomly(HEX, 32)}&page=2",
}
PLACEHOLDERS = """\
password='' | password=None | password="***" | password='your_password_here' | password='<password>'
password='${PASSWORD}' | password="{{ password }}" | password=os.environ['DB_PASSWORD']
password=getpass() | password=getpass.getpass('Password: ') | password='changeme' | password='xxxxxxxx'
password = args.password1 | password=config['database2'] | password=password_of_user2,
password="my_secret_password" | password='P@ssw0rd123' | password='Test1234!' | password="hunter2"
password = Column(String(128)) | password: str = Field(min_length=8) | password=f"{pw}_{number}1"
api_key='YOUR_API_KEY' | api_key="sk-..." | api_key=os.getenv('OPENAI_API_KEY') | api_key: str | None
auth=('user', 'pass') | auth=(USER, PASSWORD) | auth=('user', 'password123') | login('anna', password1)
smtp.login(user, os.environ['SMTP_PASSWORD2']) | tokenizer.pad_token = tokenizer.eos_token
token = 'hello-world-2024-01-31' | sep_token="[SEP]", pad_token="<|endoftext|>" | key='user_id_2024'
<label for="password">Password</label> | <input type="password" name="password1" id="password_field1"/>
"password": "Contraseña" | "password": "Passwort eingeben!" | password: "#password-input2"
curl -u "$USER:$PASS" https://x.org | docker run -u 1000:1000 x && curl x | x --password file:/run/pw1 | mysql -u root -p prod
sort_keys=['first_name1'] | cache_key = 'a3f9c2d1e8b7465a9c0d' | PublicKeyToken="b77a5c561934e089"
kind: Secret data: {{ .Values.data }} | by='column1' | primary_key='order_line_id2' | spwd: 3.0-3.12 | iL.removeBypass=iL2.removeCss3=x
password_hash = hashlib.sha256(password1) | columns = ['user', 'password', 'address_line1']
psycopg2.connect("dbname=test user=postgres password=secret") | pwd = '/home/anna/project2/data'
fetch_openml(name='mnist_784', version=1) | storage_options={'anon': True, 'key': 'data_2024'}
secret = 'projects/my-project-42/secrets/db/versions/1' | private_key = keys/server1.pem
"""
IN_SETTINGS = {
    "ini": "[db]\npassword = sunny-hill-b",
    "YAML": "db:\n  password: 'sunny-hill-b'",
    "JSON": '{"api_key": "sunny-hill-b"}',
    "TOML": 'secret_key = "sunny-hill-b"',
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


@pytest.mark.parametrize("what", LOGINS)
def test_a_login_is_found_in_code_and_notebooks(tmp_path: Path, what: str) -> None:
    cells = [{"cell_type": "code", "source": ["import x\n", LOGINS[what] + "\n"]}]
    for name, text in (
        ("a.py", LOGINS[what]), ("a.md", f"Run:\n\n    {LOGINS[what]}\n"),
        ("a.ipynb", json.dumps({"cells": cells})),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
        assert holds_secret(str(tmp_path / name)), name


@pytest.mark.parametrize("line", PLACEHOLDERS.splitlines())
def test_what_stands_for_a_password_hides_no_file(tmp_path: Path, line: str) -> None:
    for number, text in enumerate(line.split(" | ")):
        cells = [{"cell_type": "code", "source": [text + "\n"]}]
        for ending, written in (("py", text), ("ipynb", json.dumps({"cells": cells}))):
            path = tmp_path / f"{number}.{ending}"
            path.write_text(written)
            assert not holds_secret(str(path)), (text, ending)


def test_a_table_of_logins_is_one_and_a_study_of_passwords_is_none(tmp_path: Path) -> None:
    logins = (
        f"name,url,username,password\nCorp,https://corp.net,anna,{HUMAN}\n",
        f'"url";"username";"password";"httpRealm"\n"https://corp.net";"anna";"{HUMAN}";""\n',
        f"user\tpassword\nanna\t{HUMAN}\n",
        f"folder,favorite,name,login_uri,login_username,login_password\n,,a,b,c,{HUMAN}\n",
    )
    others = (
        "password,strength\nabc,0\n", "rank,password,category\n1,abc,x\n", "url,user\na,b\n",
        "id,first,last,email,gender,password\n1,a,b,c,d,e\n", "url,username,password\n",
    )  # fmt: skip
    path = tmp_path / "a.csv"
    for number, text in enumerate((*logins, *others)):
        path.write_text(text + " " * number)  # of another size
        assert holds_secret(str(path)) is (text in logins), text


@pytest.mark.parametrize(
    ("start", "found"),
    [
        (b"\x7fELF\x02\x01\x01" + b"\0" * 9 + b"\x04\0", True),  # a core dump
        (b"\x7fELF\x02\x01\x01" + b"\0" * 9 + b"\x03\0", False),  # a program
        (b"MDMP\x93\xa7", True), (b"JAVA PROFILE 1.0.2\0", True), (b"regf\x01\0", True),
        (b"0\x82\x04\xa4\x02\x01\0\x02\x82\x01", True),  # an RSA key in DER
        (b"0\x82\x03\x1f0\x82\x02\x07", False),  # a certificate
    ],
)  # fmt: skip
def test_memory_and_stores_of_keys_are_known_by_their_first_bytes(
    tmp_path: Path, start: bytes, found: bool
) -> None:
    (tmp_path / "core").write_bytes(start + bytes(range(256)) * 9)
    assert holds_secret(str(tmp_path / "core")) is found


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
    for name in ("pipe", "gone", "."):
        assert not holds_secret(str(tmp_path / name))  # a pipe would be waited for
    assert holds_secret(str(tmp_path / "link"))  # it was a file when its folder was listed


def test_pictures_and_archives_are_not_looked_into() -> None:
    assert not any(map(could_hold_secret, ["a.png", "a.PARQUET", "a.zip", "a.so"]))
    assert all(map(could_hold_secret, ["a.csv", "a.py", "a.ipynb", "a", ".a", "a.txt", "a.log"]))


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_text_is_judged(text: bytes) -> None:
    assert secret_contents._is_secret_text(text, settings=True) in (True, False)


@pytest.mark.parametrize("error", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_a_file_that_cannot_be_looked_into_now_counts_as_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    (tmp_path / "notes.txt").write_text("plain")

    def fail(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    for call in ("open", "fstat", "read"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            assert holds_secret(str(tmp_path / "notes.txt")), call
    assert not holds_secret(str(tmp_path / "notes.txt"))  # it is judged anew
    assert not holds_secret(str(tmp_path / "gone.txt"))
