"""Tell what looks like a secret by the contents of a file.

The shapes of tokens are facts from the documentation of the programs that use them, and from the
lists of gitleaks, shhgit, detect-secrets and GitHub's ignore templates.
"""

from __future__ import annotations

import base64
import os
import re
import stat
from pathlib import Path
from urllib.parse import unquote_to_bytes

from jupyter_agent.sandbox.isolation.secret_names import TABLES

__all__ = ["could_hold_secret", "holds_secret"]

# Each shape with a piece of text that must be there, so that the search for it is quick. All of
# them are linear: no repetition stands in another, and what may be long is bounded. They begin with
# letters, which are found quickly; what must stand before those is looked for from there.

_IN_BASE64 = b"|".join(  # less the last letters, which hold a part of what follows
    base64.b64encode(f"-----BEGIN {kind}PRIVATE KEY".encode()).rstrip(b"=")[:-2]
    for kind in ("", "DSA ", "EC ", "ENCRYPTED ", "OPENSSH ", "PGP ", "RSA ")
)
_RUN_SHAPES: list[tuple[bytes, bytes]] = [
    # private keys
    (b"PRIVATE KEY", rb"-{4,5} ?BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5}"
                     rb"(?:[^-]|-(?!-)){0,300}?([A-Za-z0-9+/=]{40})"),
    (b"PuTTY-User-Key-File", rb"PuTTY-User-Key-File-\d: "),
    (b"OpenVPN Static key", rb"BEGIN OpenVPN Static key V1-----"),
    (b"LS0tLS1CRUdJTiB", rb"(?:" + _IN_BASE64 + rb")([\w+/]{20})"),
    (b'"kdf"', rb'"ciphertext"\s{0,5}:\s{0,5}"([a-f0-9]{64,400})"'),
    (b"otpauth://", rb"otpauth://[^\s\"'?]{1,200}\?[^\s\"']{0,99}?secret=([A-Za-z2-7]{16,})"),
    (b"AGE-SECRET-KEY-1", rb"AGE-SECRET-KEY-1([0-9A-Z]{58})"),
    (b"xprv", rb"xprv([1-9A-HJ-NP-Za-km-z]{107})\b"),
    (b"client-key-data", rb"client-key-data: {0,5}([A-Za-z0-9+/=]{40})"),
    # clouds
    (b"AKIA", rb"AKIA([A-Z2-7]{16})\b"),
    (b"ASIA", rb"ASIA([A-Z2-7]{16})\b"),
    (b"ABSK", rb"ABSK([A-Za-z0-9+/]{109,269})"),
    (b"AIza", rb"AIza([\w-]{35})\b"),
    (b"ya29.", rb"ya29\.([\w-]{20,})"),
    (b"GOCSPX-", rb"GOCSPX-([\w-]{28})\b"),
    (b"AccountKey=", rb"AccountKey=([A-Za-z0-9+/]{86}==)"),
    (b"SharedAccessKey=", rb"SharedAccessKey=([A-Za-z0-9+/]{43}=)"),
    (b"Q~", rb"(?<![\w~.])[\w~.]{3}\dQ~([\w~.-]{31,34})(?![\w~.-])"),
    (b"LTAI", rb"LTAI([A-Za-z0-9]{20})\b"),
    *((name, name + rb"([a-f0-9]{64})\b") for name in (b"dop_v1_", b"doo_v1_", b"dor_v1_")),
    (b"hvs.", rb"hvs\.([\w-]{24,120})\b"),
    (b"hvb.", rb"hvb\.([\w-]{90,300})\b"),
    (b".atlasv1.", rb"\.atlasv1\.(?<=[A-Za-z0-9]{14}\.atlasv1\.)([\w=-]{60,70})"),
    (b"pul-", rb"pul-([a-f0-9]{40})\b"),
    (b"tskey-", rb"tskey-[a-z]{3,12}-([A-Za-z0-9]{10,30}-[A-Za-z0-9]{20,50})\b"),
    (b"dckr_", rb"dckr_[op]at_([\w-]{27,32})\b"),
    (b"sig=", rb"sig=([A-Za-z0-9%/+]{43,60}=?)"),
    (b"fm2_", rb"fm2_([\w+/-]{60,})"),
    (b"fo1_", rb"fo1_([\w-]{43})\b"),
    (b"nfp_", rb"nfp_([A-Za-z0-9]{36,40})\b"),
    (b"dp.", rb"dp\.(?:audit|ct|pt|sa|scim|st)\.(?:[a-z0-9-]{2,35}\.)?([A-Za-z0-9]{40,44})\b"),
    (b"dapi", rb"dapi([a-f0-9]{32})\b"),
    # models
    (b"sk-ant-", rb"sk-ant-([\w-]{24,})"),
    (b"sk-proj-", rb"sk-proj-([\w-]{40,})"),
    (b"sk-svcacct-", rb"sk-svcacct-([\w-]{40,})"),
    (b"sk-or-v1-", rb"sk-or-v1-([a-f0-9]{64})\b"),
    (b"sk-", rb"sk-([A-Za-z0-9]{32,64})\b"),
    (b"hf_", rb"hf_([A-Za-z0-9]{34,40})\b"),
    (b"gsk_", rb"gsk_([A-Za-z0-9]{52})\b"),
    (b"xai-", rb"xai-([A-Za-z0-9]{80})\b"),
    (b"pplx-", rb"pplx-([A-Za-z0-9]{48})\b"),
    (b"nvapi-", rb"nvapi-([\w-]{60,70})\b"),
    (b"lsv2_", rb"lsv2_[ps][tk]_([a-f0-9]{32}_[a-f0-9]{10})\b"),
    (b"r8_", rb"r8_([A-Za-z0-9]{37})\b"),
    # code and packages
    *((name, name + rb"([A-Za-z0-9]{36})\b") for name in b"ghp_ gho_ ghu_ ghs_ ghr_".split()),
    (b"github_pat_", rb"github_pat_(\w{82})\b"),
    *(
        (name, name + rb"([\w-]{20,64})\b")
        for name in b"glpat- glptt- gldt- glrt- glcbt- glsoat- glagent- glimt- glft- gloas-".split()
    ),
    (b"npm_", rb"npm_([A-Za-z0-9]{36})\b"),
    (b"pypi-AgE", rb"pypi-AgE([\w-]{50,})"),
    (b"rubygems_", rb"rubygems_([a-f0-9]{48})\b"),
    (b"ATATT3", rb"ATATT3([\w=-]{50,})"),
    (b"AKCp", rb"AKCp([A-Za-z0-9]{69})\b"),
    (b"sntry", rb"sntry[su]_([\w=+/-]{40,})"),
    (b"PMAK-", rb"PMAK-([a-f0-9]{24}-[a-f0-9]{34})\b"),
    # services
    (b"xox", rb"xox[abeoprs]-([A-Za-z0-9-]{20,})"),
    (b"xapp-", rb"xapp-\d-([A-Z0-9]+-\d+-[a-z0-9]{20,})"),
    (b"hooks.slack.com/", rb"hooks\.slack\.com/(?:services|workflows)/([A-Za-z0-9+/]{40,56})"),
    *(
        (name, name + rb"([A-Za-z0-9]{20,99})\b")
        for name in b"sk_live_ sk_test_ sk_prod_ rk_live_ rk_test_ rk_prod_".split()
    ),
    (b"whsec_", rb"whsec_([A-Za-z0-9]{32,64})\b"),
    (b"SG.", rb"SG\.([\w-]{22}\.[\w-]{43})\b"),
    (b"shp", rb"shp(?:at|ca|pa|ss)_([a-fA-F0-9]{32})\b"),
    (b"sq0", rb"sq0(?:atp|csp)-([\w-]{22,43})\b"),
    (b"glsa_", rb"glsa_([A-Za-z0-9]{32}_[A-Fa-f0-9]{8})\b"),
    (b"glc_", rb"glc_([A-Za-z0-9+/=]{32,400})"),
    (b"pscale_", rb"pscale_(?:tkn|oauth|pw)_([\w.=-]{32,64})"),
    (b"lin_api_", rb"lin_api_([A-Za-z0-9]{40})\b"),
    (b"ntn_", rb"ntn_([A-Za-z0-9]{46})\b"),
    (b"secret_", rb"secret_([A-Za-z0-9]{43})\b"),
    (b"pat", rb"pat[A-Za-z0-9]{14}\.([a-f0-9]{64})\b"),
    (b"dt0", rb"dt0[a-z]\d\d\.[A-Z0-9]{24}\.([A-Z0-9]{64})\b"),
    (b"NRAK-", rb"NRAK-([A-Z0-9]{27})\b"),
    (b"NRII-", rb"NRII-([\w-]{32})\b"),
    (b"SK", rb"SK([a-f0-9]{32})\b"),
    (b"key-", rb"key-(?<![\w-]key-)([a-f0-9]{32})\b"),
    (b"EAA", rb"EAA[A-Za-z0-9]{1,20}([A-Za-z0-9]{80,})"),
    (b"/webhooks/", rb"discord(?:app)?\.com/api/(?:v\d+/)?webhooks/\d{17,20}/([\w-]{60,80})"),
    (b"webhook", rb"webhook\.office\.com/webhookb2/([\w@-]{36,80}/IncomingWebhook/[a-f0-9]{32})"),
    (b".", rb"\.(?:(?<=[MNO][\w-]{23}\.)|(?<=[MNO][\w-]{25}\.))[\w-]{6}\.([\w-]{27,40})(?![\w-])"),
    (b"figd_", rb"figd_([\w-]{40})\b"),
    (b":AA", rb":AA(?<=\d{8}:AA)([\w-]{33})\b"),
    (b"-us", rb"-us(?<=([a-f0-9]{32})-us)\d{1,2}\b"),
    (b"eyJ", rb"eyJ(?:(?<![\w.-]eyJ)|(?<=\\[nrt]eyJ))[\w-]{10,500}\."
             rb"eyJ[\w-]{10,2000}\.([\w-]{20,})"),
]  # fmt: skip
# what is written down for a program to log in with
_ANYWHERE_SHAPES: list[tuple[bytes, bytes]] = [
    (b"PrivateKey", rb"PrivateKey\s{0,5}=\s{0,5}([A-Za-z0-9+/]{43}=)"),
    (b"ecret", rb"(?i:aws_?secret_?(?:access_?)?key)[\"']?\s{0,5}[:=]\s{0,5}[\"']?"
               rb"([A-Za-z0-9/+]{40})\b"),
    (b"_authToken", rb"_authToken\s{0,3}=\s{0,3}([\w-]{20,})"),
    (b"machine", rb"machine\s{1,10}\S{1,200}\s{1,10}login\s{1,10}\S{1,200}\s{1,10}"
                 rb"password\s{1,10}(\S{4,200})"),
    (b":$", rb"(?m:^)[\w.@-]{1,64}:\$(?:apr1|y|[1256][aby]?)\$(?:[\w./=,-]{1,64}\$)?"
            rb"([\w./]{20,})"),
    (b"nemonic", rb"[mM]nemonic\W{1,10}((?:[a-z]{3,8} ){11}(?:(?:[a-z]{3,8} ){12})?[a-z]{3,8})\b"),
    (b" $", rb"(?:secret|password) [589] (\$[\w./$]{20,})"),
    (b'"auth"', rb'"auth"\s{0,5}:\s{0,5}"([A-Za-z0-9+/=]{12,})"'),
    (b"uthorization", rb"[Aa]uthorization[\"']?\s{0,5}[:=]\s{0,5}[\"']?"
                      rb"(?:Bearer|Basic|[Tt]oken)\s{1,5}([\w.+/=~-]{20,})"),
    (b"_token", rb"\"(?:access|refresh)_token\"\s{0,5}:\s{0,5}\"([^\"\s]{20,4000})\""),
    (b"client_secret", rb"client_secret\"?\s{0,5}[:=]\s{0,5}[\"']([^\"'\s]{16,200})[\"']"),
]  # fmt: skip
# scheme://user:password@host
_LOGIN = re.compile(rb"://[^\s/:@\"'`<>()\\]{0,100}:([^\s/@\"'`<>()\\]{3,200})@([\w.-]{1,200})")
# what is given to a function, or to a program, with a user's name; Q: a quote, in JSON too
_LOGIN_SHAPES: list[tuple[bytes, bytes]] = [
    (b"auth", rb"auth\s?=\s?\(\s{0,20}[^(),]{1,100},\s{0,20}Q([^\s\"'\\]{6,200})Q"),
    (b"Auth(", rb"Auth\(\s{0,20}[^(),]{1,100},\s{0,20}Q([^\s\"'\\]{6,200})Q"),
    (b".login(", rb"\.login\((?:[^(),]{1,100},\s{0,20}){1,2}Q([^\s\"'\\]{6,200})Q"),
    (b"FTP", rb"FTP(?:_TLS)?\([^(),]{1,100},\s{0,20}(?!Qanonymous)[^(),]{1,100},\s{0,20}"
             rb"Q([^\s\"'\\]{6,200})Q"),
    (b"SecureString", rb"SecureString\s(?:-String\s)?Q([^\s\"'\\]{6,200})Q"),
    (b"curl", rb"\s(?:-u|--user|--proxy-user)[ =]{0,2}Q?[^\s:\"'\\$]{1,100}:([^\s\"'\\]{6,200})"),
    (b"-password ", rb"-password {1,3}([^\s\"'\\-][^\s\"'\\]{7,200})"),
    (b"sshpass", rb"sshpass\s{1,3}-p\s{0,3}Q?([^\s\"'\\]{6,200})"),
    (b" by '", rb"identified by '([^\s'\\]{6,200})'"),
    (b" BY '", rb"IDENTIFIED BY '([^\s'\\]{6,200})'"),
]  # fmt: skip
# mysql -psecret, in a text with that word
_OF_MYSQL = re.compile(rb"(?<=\s)-p[\"']?([^\s\"'\\]{8,200})")
# A name and its value. Of a key what it is for must stand before it.
_NAMED = re.compile(
    rb"(?P<name>pass(?:word|wd|wort|code|phrase)?|pwd|psk|key|secret|token)"
    rb"s?(?:[_-]?(?:\d{1,2}|dev|live|prod|test))?"
    rb"(?:\\?[\"'])?\]?(?:</\w{1,20}>\s{0,40}<\w{1,20}(?=>)|\s{1,3}(?=value))?"
    rb"(?P<joiner>:\s?[\w.&|\[\]]{1,30}\s{0,3}=[ \t]{0,3}"
    rb"|[ \t]{0,10}(?:value=|:=|=>|<-|==|[:=>,])[ \t]{0,10}|[ \t]{1,3}(?=\\?[\"']))"
    rb"(?:[bru@]?\\?[\"'`](?P<quoted>[^\s\"'`\\]{8,200})|(?P<bare>[^\s\"'`\\#,;&<]{8,200}))"
)
_KEY_OF = re.compile(
    rb"(?:access|account|admin|api|app|application|auth|client|consumer|deploy|encryption|hmac"
    rb"|licen[cs]e|master|priv|private|secret|server|service|session|shared|signing|storage"
    rb"|subscription)[._ -]?$"
)
_OF_MACHINES = (b"key", b"secret", b"token")
_PUBLIC = re.compile(rb"public[_-]?keytoken$|[?&]pwd$")  # of .NET's assemblies, of a meeting
# Of these names any value is one in settings.
_SURE = re.compile(rb"(?:(?:secret|api|access|private)[_-]?key|auth_?token|client_?secret)$")
_MADE_UP = re.compile(
    rb"example|x{4}|\*{3}|\.{3}|1234567|abcdefg|0{6}|placeholder|change_?me|replace|your|dummy|fake"
    rb"|redacted|insert|todo|^Eby8vdM02xN|^(?:none|null|true|false|password|passwd|secret)$",
    re.IGNORECASE,
)
# ${NAME}, {{ name }}, <name>, %(name)s, [name], os.environ[...], getpass(), a path, a reference
_TEMPLATE = re.compile(
    rb"\$[{(]|^\$\w+(?:$|[/.:])|^\$env:|\{\{|\{[\w.\[\]:!]*\}|<[\w -]*>?|%\(\w|%[\w]+%|^%[drs]"
    rb"|^[\[{(].*[\])}]$|^[A-Za-z_.]{3,}[\[(]|^(?:~|\.{0,2})/[\w.-]*/|^\w{2,20}://"
    rb"|\.(?:cer|crt|json|key|p12|pem|pfx|pub|txt|ya?ml)$"
    rb"|^(?:arn|aws|azure|enc|env|file|gcp|kms|op|sops|ssm|vault)[:(]",
    re.IGNORECASE,
)
_ESCAPE = re.compile(rb"\\[nrt]$|\\u00[0-9a-fA-F]{2}$|%[0-9A-F]{2}$|\[[\d;]{1,8}m$")
# What passwords in examples are made of. 4, @, 3, 1, 0, $ and 5 stand for letters.
_USUAL = re.compile(
    b"|".join(
        (
            b"abc access account admin api apples auth bar baz blah change client code column "
            b"connection correct cred current database default demo enter field foo geheim guest "
            b"hello hidden horse hunter iloveyou input invalid key label letmein login my name new "
            b"null old parole pass phrase postgres private public pwd qwerty random root sample "
            b"secret secure service sesame some string strong super temp test text the this token "
            b"user valid value var welcome word wrong www"
        ).split()
    )
)
_COUNTING = re.compile(rb"0?123(?:4(?:5(?:6(?:7(?:8(?:90?)?)?)?)?)?)?|(?:19|20)\d\d$")
_LEET = bytes.maketrans(b"013457@$", b"oieastas")
_NO_LETTER = re.compile(rb"[^A-Za-z_\-./:\x80-\xff]")
_BETWEEN = re.compile(rb"[-_./:,|@ ]")
_ALIKE = re.compile(rb"[A-Z]?[a-z\x80-\xff]+|[A-Z]+|[0-9]+|[^A-Za-z0-9]")
_SECRET_OF_KUBERNETES = re.compile(rb"kind\"?: {0,5}\"?Secret\b")
_DATA_OF_KUBERNETES = re.compile(
    rb"[dD]ata\"?:\s{1,20}\{?\s{0,20}\"?[\w.-]{1,60}\"?: {1,5}[\"'|>-]{0,2}\s{0,20}([^\s\"']{8,})"
)
# Columns of the tables that browsers and password managers write.
_PASSWORD_COLUMNS = frozenset(b"login_password passwd password passwort pwd".split())
_SITE_COLUMNS = frozenset(b"host hostname login_uri site uri url web\x20site website".split(b" "))
_USER_COLUMNS = frozenset(b"account email e-mail login user username".split())
_COMMA = re.compile(rb"[,;\t|]")
# Memory of programs (ELF, Mach-O, Windows, LiME, Java), hives of Windows, stores and keys in DER.
_FIRST_BYTES = re.compile(
    rb"\x7fELF[\s\S]{12}(?:\x04\0|\0\x04)|\xcf\xfa\xed\xfe[\s\S]{8}\x04\0\0\0|MDMP|PAGEDU|EMiL"
    rb"|JAVA PROFILE|regf|\x03\xd9\xa2\x9a|\xfe\xed\xfe\xed\0\0\0|\xce\xce\xce\xce\0\0\0"
    rb"|0\x82[\s\S]{2}\x02\x01(?:\0(?:\x02\x82|0\x0d\x06\x09\*)|\x030)"
)
_SOMEBODY = re.compile(rb"(?i)pass|pwd|pw$|secret|token|user|foo|bar|key|repo|postgres|root|admin")
_SOMEWHERE = (b"127.0.0.1", b"my", b"your", b"foo", b"bar", b"web", b"host", b"server", b"domain")
_IN_RUNS = [(piece, re.compile(shape)) for piece, shape in _RUN_SHAPES]
_QUOTE = rb"(?:\\?[\"'`])"
_LOGINS = [(piece, re.compile(shape.replace(b"Q", _QUOTE))) for piece, shape in _LOGIN_SHAPES]
_ANYWHERE = [(piece, re.compile(shape)) for piece, shape in _ANYWHERE_SHAPES]
# The shapes of the first list hold 20 letters, digits, _ and - in a row, as few texts do: one
# search says whether it is worth to look for each.
_RUN = b"a" * 20
_AS_RUN = bytes(
    97 if chr(c).isascii() and (chr(c).isalnum() or c in b"_-") else 32 for c in range(256)
)
_MAX_BYTES = 1 << 18  # looked at, from the start of a file
# Of tables there may be hundreds in a folder; one with long identifiers takes about 1 ms then.
_MAX_OF_A_TABLE = 1 << 14
_ROWS = frozenset("csv geojson jsonl ndjson tsv".split())
_TEXTS = frozenset("htm html kml md rst rtf svg tex".split())
_BINARY = (TABLES - _ROWS - _TEXTS) | frozenset(
    "so pyc pyd zip gz bz2 xz zst 7z rar tar tgz whl egg jar exe dll dylib a o bin pkl pickle db "
    "sqlite sqlite3 duckdb ico woff woff2 ttf otf eot mo webm ogg iso dmg ckpt pb tflite".split()
)
_SETTINGS = frozenset(
    "bash bat cfg cmd cnf conf config env fish ini json properties ps1 sh toml txt xml yaml yml "
    "zsh".split()
)
_SETTINGS_IN_PYTHON = frozenset(
    "conf.py config.py local_settings.py production.py settings.py".split()
)
_MAX_REMEMBERED = 100_000
_remembered: dict[tuple[int, ...], bool] = {}


def could_hold_secret(name: str) -> bool:
    """Tell whether a file of this name is one to be looked into."""
    return _ending(name) not in _BINARY


def holds_secret(path: str) -> bool:
    """Look for private keys, tokens and passwords in a text file's beginning.

    A file that cannot be read counts as one with a secret: what fails here, for want of a
    descriptor say, may work in the sandbox. Nothing but a regular file is ever read: a named pipe
    would be waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        facts = os.fstat(descriptor)
        key = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
        if key not in _remembered:
            if len(_remembered) >= _MAX_REMEMBERED:
                _remembered.clear()
            _remembered[key] = stat.S_ISREG(facts.st_mode) and _read_on(descriptor, path)
        return _remembered[key]
    except OSError:
        return True
    finally:
        os.close(descriptor)


def _read_on(descriptor: int, path: str) -> bool:
    ending = _ending(path)
    max_bytes = _MAX_OF_A_TABLE if ending in _ROWS else _MAX_BYTES
    settings = not ending or ending in _SETTINGS or Path(path).name in _SETTINGS_IN_PYTHON
    text = os.read(descriptor, max_bytes)
    if ending in _ROWS:
        return _lists_logins(text) or _holds_token(_plain(text))
    return bool(_FIRST_BYTES.match(text)) or _is_secret_text(text, settings=settings)


def _ending(path: str) -> str:
    name, dot, ending = path.rpartition("/")[2].rpartition(".")
    return ending.lower() if name and dot else ""


def _is_secret_text(text: bytes, *, settings: bool) -> bool:
    """Tell whether a text holds a secret; ``settings``: whether most named values are one."""
    settings = settings and b"\0" not in text[:1024]
    text = _plain(text)
    return _holds_token(text) or _holds_login(text, settings=settings)


def _plain(text: bytes) -> bytes:
    """Drop what UTF-16 adds to plain letters."""
    return text.replace(b"\0", b"").lstrip(b"\xff\xfe") if b"\0" in text[:1024] else text


def _holds_token(text: bytes) -> bool:
    shapes = _ANYWHERE + _IN_RUNS if _RUN in text.translate(_AS_RUN) else _ANYWHERE
    for piece, shape in shapes:
        if piece in text and any(map(_real, shape.finditer(text))):
            return True
    return b"://" in text and b"@" in text and any(map(_real_login, _LOGIN.finditer(text)))


def _holds_login(text: bytes, *, settings: bool) -> bool:
    for piece, shape in _LOGINS:
        if piece in text and any(map(_is_chosen, set(shape.findall(text)))):
            return True
    if b"mysql" in text and any(_is_random(each, 8) for each in set(_OF_MYSQL.findall(text))):
        return True
    secret_of_kubernetes = b"Secret" in text and _SECRET_OF_KUBERNETES.search(text)
    if secret_of_kubernetes and any(map(_real, _DATA_OF_KUBERNETES.finditer(text))):
        return True
    found = _NAMED.finditer(text.lower())
    named = {text[max(0, match.start() - 14) : match.end() + 1]: match for match in found}
    return any(_is_named_secret(match, text, settings=settings) for match in named.values())


def _real(match: re.Match[bytes]) -> bool:
    """Tell a secret from what stands for one in an example, or in the middle of something else."""
    start = match.start()
    before = match.string[max(0, start - 12) : start]
    value = match[match.lastindex or 0][:400]
    inside = before[-1:].isalnum() and match[0][:1].isalnum() and not _ESCAPE.search(before)
    return not inside and len(set(value)) > 5 and not _is_placeholder(value)


def _is_placeholder(value: bytes) -> bool:
    """Tell what stands in examples and templates in the place of a secret."""
    return bool(_MADE_UP.search(value) or _TEMPLATE.search(value))


def _is_named_secret(match: re.Match[bytes], text: bytes, *, settings: bool) -> bool:
    """Judge a name and its value: in settings it is one unless it is a word, in code less often."""
    lower, name = match.string, match["name"]
    before = lower[max(0, match.start() - 14) : match.start()]
    if (name == b"key" and not _KEY_OF.search(before)) or _PUBLIC.search(before + name):
        return False
    start, end = match.span("quoted" if match["quoted"] else "bare")
    value = text[start:end]
    if len(set(value)) < 5 or _is_placeholder(value):
        return False
    beside = not match["joiner"].strip(b", \t")  # it is not said that this is the value
    part = name in (b"pass", b"psk", b"pwd") and before[-1:].isalpha() and text[match.start()] > 96
    password = name not in (*_OF_MACHINES, b"pass") and not part
    if (beside or part) and not match["quoted"]:
        return False
    if settings and not beside and (password or _SURE.search(before + name)):
        return not _is_word(value)
    if password and not beside and match["quoted"]:
        return text[end : end + 1] in (b'"', b"'", b"`", b"\\") and _is_chosen(value)
    return set(value).isdisjoint(b"([{") and _is_random(value, 16 if name in _OF_MACHINES else 8)


def _is_word(value: bytes) -> bool:
    word = value.decode("utf-8", "replace")
    return word.isalpha() and (word.islower() or word.istitle() or word.isupper())


def _is_chosen(value: bytes) -> bool:
    """Tell a password that somebody chose from words, names in code and what examples use."""
    if _is_placeholder(value):
        return False
    rest = _USUAL.sub(b"", _COUNTING.sub(b"", value.lower()).translate(_LEET))
    rest = re.sub(rb"[-_./:*?!]", b"", rest)
    if len(rest) < 6 or len(set(rest)) < 5 or value.lower() == value.upper():
        return False
    path = b"/" in value or b"\\" in value
    return _is_random(value, 8) or (not path and bool(_NO_LETTER.search(value.rstrip(b"*:?!."))))


def _is_random(value: bytes, least: int) -> bool:
    """Tell what a machine has drawn: it changes from letters to numbers more often than names."""
    if len(value) < least:
        return False
    for part in _BETWEEN.split(value):
        if len(part) >= min(least, 12) and len(set(part)) > 5:
            changes = len(_ALIKE.findall(part))
            numbers = not set(part).isdisjoint(b"0123456789")
            letters_a_change = 5.0 if numbers and len(part) >= 20 else 3.0 if numbers else 2.5
            if len(part) < letters_a_change * changes:
                return True
    return False


def _lists_logins(text: bytes) -> bool:
    """Tell whether a table's columns are those that password managers and browsers export."""
    first, _, rest = text[:4096].partition(b"\n")
    columns = {column.strip(b" \"'\r\xef\xbb\xbf").lower() for column in _COMMA.split(first)}
    if not rest.strip() or columns.isdisjoint(_PASSWORD_COLUMNS):
        return False
    small = len(columns) <= 4 and not columns.isdisjoint(_USER_COLUMNS)
    return small or not columns.isdisjoint(_SITE_COLUMNS)


def _real_login(match: re.Match[bytes]) -> bool:
    password, host = unquote_to_bytes(match[1]), match[2].lower()
    if _SOMEBODY.search(password.translate(_LEET)) and (
        b"." not in host or host.startswith(_SOMEWHERE)
    ):
        return False
    return b"example." not in host and not _is_placeholder(password)
