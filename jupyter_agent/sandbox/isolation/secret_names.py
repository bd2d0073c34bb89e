"""Tell what looks like a secret by the name of a file or folder.

The names are facts from the documentation of the programs that use them, and from the lists of
gitleaks, shhgit, detect-secrets and GitHub's ignore templates.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from fnmatch import translate

__all__ = ["TABLES", "is_secret_folder", "is_secret_name"]

# Case, accents, separators, numbers and "s" at the end of a word, and the words of a copy count for
# nothing in a name: "Credentials-Copy (2).JSON.bak" is credentials.json, and so is .yml as .yaml.

_COPY_WORDS = frozenset(
    "~ back backup bak bk bkp copia copie copy default disabled dist enc encrypted example final "
    "kopie local new of old orig original prev previous rej sample save saved swn swo swp "
    "temp template tmp tpl un v version "
    "dev development int live prod production qa stage staging test testing uat "  # of a setting
    "7z age bz bz2 gpg gz lz lz4 rar tar tbz tgz txz xz zip zst".split()
)

# Endings that say it whatever stands before them.
_ENDINGS = frozenset(
    # keys and certificates with keys
    "bcfks bek bks fve gpgkey jceks jks key keypair keystore p12 p8 pem pfx pk8 pkcs12 pkcs8 "
    "ppk priv privkey truststore "
    # passwords
    "1pif agilekeychain apikey cookies cred credential credentials creds htpasswd kdb kdbx "
    "keychain keyring keytab kirbi kwallet netrc opvault pass passwd password pgpass psafe3 pwd "
    "secret secrets token walletx "
    # settings that hold them
    "azurepubxml ccache cscfg dockercfg env envrc kubeconfig npmrc ovpn publishsettings pypirc "
    "rdg rdp s3cfg session tblk tfplan tfstate tfvars vault "
    # memory of programs, and records of what a browser sent
    "har hprof mdmp".split()
)

# Whole names, as the programs that keep them write them.
_NAMES = (
    # clouds and clusters
    "access_tokens.db accessKeys.csv accessTokens.json adc.json admin.conf "
    "amplify-credentials.json application_default_credentials.json aws-credentials azure.json "
    "azureauth.json azureProfile.json boto.cfg boto.conf config.kube controller-manager.conf "
    "doctl.yaml google-services.json GoogleService-Info.plist k3s.yaml kube-config.yaml "
    "kube.config kube_config kubeconfig kubeconfig.json kubeconfig.yaml kubelet.conf "
    "legacy_credentials msal_token_cache.bin msal_token_cache.json ossutilconfig rclone.conf "
    "rootkey.csv s3cfg s3cmd.ini scheduler.conf ServiceConfiguration.Cloud.cscfg "
    "servicePrincipalProfile.json stack.env talosconfig "
    # deployment
    "acme.json ansible-vault.yml appsettings.json autounattend.xml hudson.util.Secret "
    "jenkins.plugins.publish_over_ssh.BapSshPublisherPlugin.xml knife.rb master.key "
    "puppet-passwords.yaml sysprep.inf sysprep.xml terraform.rc terraformrc unattend.xml "
    "vault.json vault.yml web.config "
    # databases and data tools
    "connections.toml data-sources.xml database.yml databricks.cfg databrickscfg "
    "dbeaver-data-sources.xml dbt_profiles.yml kaggle.json my.cnf mylogin.cnf odbc.ini pgpass "
    "pgpass.conf pgpassfile profiles.yml robomongo.json snowflake.toml "
    # packages, repositories and containers
    "_netrc auth.json dockercfg dockerconfig.json dockerconfigjson gem_credentials "
    "git-credentials gitcredentials github_hosts.yml netrc npmrc pypirc settings-security.xml "
    "yarnrc "
    # servers and accounts of a system
    "authinfo carrierwave.rb chap-secrets cifs-credentials config.inc.php configuration.php "
    "cookie_secret credentials.py dotenv env esmtprc fetchmailrc gshadow htpasswd ipsec.secrets "
    "jupyter_cookie_secret LocalSettings.php lsass.dmp master.passwd memory.dmp msmtprc muttrc "
    "ntds.dit omniauth.rb opasswd pap-secrets passwd passwords.py proftpdpasswd sam.hive "
    "sasl_passwd secret.py secret_settings.py secret_token.rb secrets.py settings_secret.py "
    "shadow smbcredentials sudoers ultravnc.ini ventrilo_srv.ini vncpasswd wg.conf "
    "wireguard.conf wp-config.php wpa_supplicant.conf "
    # file transfer
    "filezilla.xml ftpconfig recentservers.xml sftp-config.json sftp.json sitemanager.xml "
    "winscp.ini ws_ftp.ini "
    # browsers, password managers and wallets
    "cert9.db cookiejar cookiejar.txt cookies cookies.binarycookies cookies.db cookies.json "
    "cookies.sqlite cookies.txt formhistory.sqlite key.db local_state login.data login.json "
    "login.keychain-db logins.csv logins.json logins.txt logins.xlsx otr.private_key secring "
    "secring.gpg seedphrase.txt sessionstore.jsonlz4 signons.sqlite storage_state.json "
    "trustdb.gpg wallet.dat wallet.json web_data "
    # the rest
    "bash_aliases bash_profile bashrc configuration.user.xpl deployment-config.json gitconfig "
    "heroku.json mongoid.yml sessionid token token.pickle token_cache tokens.db tokens.json "
    "tokens.yaml tugboat zshrc "
).split()  # fmt: skip

# Where what follows is somebody's choice.
_GLOBS = (
    ".*",
    "#*#",
    "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "id_xmss*",
    "*_rsa", "*_dsa", "*_ecdsa", "*_ed25519", "ssh_host_*_key*", "authorized_keys*", "known_hosts*",
    "*bash_history*", "*zsh_history*", "*fish_history*", "*sh_history", "*irb_history*",
    "*mysql_history*",
    "*psql_history*", "*sqlite_history*", "*rediscli_history*", "*python_history*",
    "*private*.asc*", "*private*.gpg*", "*private*.pgp*", "*passw?rter*", "*contrase?a*",
    "krb5cc*", "utc--*", "client_secret*.json", "*.tfstate.*", "*.auto.tfvars*", "*.env.*",
    "pulumi.*.y*ml*", "seed.txt*",  # seeds.txt is a list of numbers or plants
    "*-firebase-adminsdk-*", "bitwarden_*export*", "secring.*", "*.keychain-db*",
)  # fmt: skip

# Words that say it of a setting or a note wherever they stand, and of a table, a document or a
# picture where they come last: passwords.csv, but not password_strength.csv. Of code they say
# nothing: it is looked into. A blank may be missing.
_WORDS = (
    r"\w*secret",
    r"\w*credential", r"(?:\w*creds|cred)",
    r"\w*passw(?:or)?[dt]", r"\w*passphrase", r"\w*htpasswd", r"pwd", r"vault pass",
    # the same in other languages
    r"adgangskode", r"contrasena", r"has[lł][ao]", r"hes[lł][ao]", r"losenord", r"mots? de passe",
    r"passwoerter", r"salasana", r"senha", r"wachtwoord(?:en)?", r"парол[ьи]", r"パスワード",
    r"密[码碼]", r"비밀번호",
    r"(?:api|access|account|auth|client|deploy|deployment|encryption|host|hmac|license|master"
    r"|priv|private|root|rsa|sa|secret|service|session|signing|ssh|storage|age|gpg|pgp) key",
    r"(?:api|access|auth|bearer|bot|deploy|gitlab|id|login|oauth|personal|refresh|sas|session"
    r"|user|web) token",
    r"token cache", r"auth cookie", r"cookie jar",
    r"service account(?: key)?", r"service principal", r"firebase adminsdk",
    r"(?:backup|recovery|scratch|mfa|\d?fa|t?otp) (?:code|key)", r"recovery phrase",
    r"t?otp secret", r"\w*(?:authinfo|dockercfg|netrc|npmrc|pgpass|pypirc)",
    r"seed phrase", r"mnemonic", r"connection string", r"conn str", r"kube config", r"key store",
    r"trust store", r"ssh backup", r"wifi pass",
)  # fmt: skip
_OWNERS = (
    "admin airtable algolia alibaba anthropic app asana atlassian auth aws azure bitbucket box "
    "cloudflare cohere confluent databricks datadog dbt deepseek digitalocean discord docker "
    "dockerhub dropbox elastic facebook fastly figma firebase ftp gcloud gcp gcs gdrive gemini git "
    "github gitlab gmail google grafana groq gsheets heroku hf hub huggingface hubspot ibm jira "
    "jwt kaggle linear linkedin mailchimp mailgun minio mistral mongo mongodb mysql neptune "
    "netlify ngrok notion npm okta openai openrouter paypal pg pinecone postgres pypi rapidapi "
    "redis replicate s3 salesforce sendgrid sentry server sheets shopify slack smtp snowflake "
    "snyk spotify square ssl stripe supabase tailscale tavily telegram tls together twilio twitter "
    "vault vercel vpn wandb weaviate wireguard youtube zendesk"
).split()

# Whole stems that say it of settings and notes, but not of a table: keys.json, my logins.txt.
_ALONE = re.compile(
    r"(?:(?:all|my|our) ?)?(?:hotp|key|key ?file|login|oauth|pass|t?otp)s?|(?:all|my|our) tokens?"
)
# Exports of password managers, whatever kind of file they are.
_MANAGER = re.compile(
    r"(?:\d+ ?password|bit ?warden|dash ?lane|enpass|kee ?pass ?(?:xc?)?|last ?pass|nord ?pass"
    r"|proton ?pass|robo ?form|vault ?warden)"
    r"(?: (?:data|db|dump|export|item|login|password|vault)s?)*"
)
_CODE = frozenset(
    "py pyc pyi pyx pxd pyd so ipynb r rmd qmd jl js mjs ts jsx tsx vue css scss c cc cpp h hpp "
    "java scala kt go rs swift m sql sh bash zsh ps1 bat rb pl php lua tf ex proto cmake".split()
)
TABLES = frozenset(
    "csv tsv parquet feather arrow orc avro xls xlsx xlsm ods numbers pdf doc docx odt rtf ppt "
    "pptx md rst tex html htm npy npz h5 hdf5 nc zarr mat sav dta rds rdata jsonl ndjson geojson "
    "shp dbf shx prj gpkg kml tif tiff png jpg jpeg gif svg webp bmp wav mp3 flac mp4 avi mov "
    "safetensors pt pth onnx gguf joblib".split()
)
_FOLDERS = (
    "secret secrets credential credentials creds password passwords passwd private_key "
    "private_keys privatekeys ssh ssh_keys sshkeys gnupg keychains keystore keyrings "
    "api_keys apikeys secrets.d password-store"
).split()

_SPLIT = re.compile(r"[^\W_]+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
# Of a number it does not matter which: so a hundred thousand numbered pictures are judged as one.
_NUMBER = re.compile(r"(?<![0-9])(?!25519(?![0-9]))[0-9]{3,}")
_COPY_OF = re.compile(r"^(?:(?:copy|backup) of|kopie von|copie de|copia de)[ _-]+", re.IGNORECASE)
_FIRST = re.compile(r"[a-z0-9]*")
_NOTES = frozenset(("txt", "asc", "b64"))  # endings that say nothing of what is in a file
_OF_SETTINGS = frozenset("cfg conf config ini json plist properties toml xml yaml yml".split())


def _words(text: str) -> list[str]:
    """Split at separators and humps; numbers at the ends of words are dropped."""
    words = _SPLIT.findall(_HUMP.sub(" ", text))
    return [word for each in words if (word := each.lower().rstrip("0123456789"))]


def _without_copy_words(words: list[str]) -> list[str]:
    return [word for word in words if word not in _COPY_WORDS]


def _joined(name: str) -> str:
    return "".join(_singular(word) for word in _without_copy_words(_words(name)))


def _singular(word: str) -> str:
    return "yaml" if word == "yml" else word.removesuffix("s")


def _visible(name: str) -> str:
    """Replace characters that look alike by one of them; drop accents and invisible characters."""
    if name.isascii():
        return name.strip()
    folded = unicodedata.normalize("NFKD", name)
    return "".join(c for c in folded if unicodedata.category(c) not in ("Cc", "Cf", "Mn")).strip()


_NAME_SET = frozenset(map(_joined, _NAMES))
_FOLDER_SET = frozenset(map(_joined, _FOLDERS))
_LAST_OF_FOLDER = re.compile(r"(?:^|[\W_])(?:secret|credential|password|keystore)s?$")
_GLOB = re.compile("|".join(map(translate, _GLOBS)))
_LIKELY = _visible("|".join(word.replace(" ", " ?") for word in _WORDS))
_WORD = re.compile(rf"\b(?:{_LIKELY})s?\b")
_LAST_WORD = re.compile(rf"\b(?:{_LIKELY})s?$")
_OWNED = re.compile(
    rf"\b(?:{'|'.join(_OWNERS)})(?: \w+){{0,2}} ?(?:key|token|auth|login|pat|pass)s?$"
    r"|\btoken$|\bweb ?hooks?(?: (?:link|ur[il])s?)?$"
)


def is_secret_name(name: str) -> bool:
    """Tell whether a file of this name is likely to hold a secret."""
    return _is_secret_name(_NUMBER.sub("000", _visible(name)))


@functools.lru_cache(maxsize=8192)
def _is_secret_name(name: str) -> bool:
    name = _COPY_OF.sub("", name)
    if _GLOB.match(name.lower()) or _joined(name) in _NAME_SET:
        return True
    stem, kind, said = _take_apart(name)
    if said or kind in _CODE:
        return said
    words = _words(stem)
    texts = {" ".join(words), " ".join(_without_copy_words(words))}
    if any(map(_MANAGER.fullmatch, texts)):
        return True
    if kind in TABLES:
        return any(map(_LAST_WORD.search, texts))
    if (not kind or kind in _OF_SETTINGS) and any(map(_ALONE.fullmatch, texts)):
        return True
    return any(_WORD.search(text) or _OWNED.search(text) for text in texts)


def is_secret_folder(name: str) -> bool:
    """Tell whether a folder of this name is one where secrets are kept."""
    name = _visible(name)
    named = _joined(name) in _FOLDER_SET or _LAST_OF_FOLDER.search(name.lower())
    return name.startswith(".") or bool(named) or _take_apart(name)[2]


def _take_apart(name: str) -> tuple[str, str, bool]:
    """Find a name's stem and the ending that counts, and whether an ending says that it is one."""
    parts = name.split(".")
    while len(parts) > 1:
        ending = parts.pop().lower()
        match = _FIRST.match(ending)
        first = match[0] if match else ""
        more = _without_copy_words(_words(ending[len(first) :]))
        if first in _ENDINGS and not more:
            return ".".join(parts), first, True
        if more or (first not in _NOTES and _without_copy_words(_words(first))):
            return ".".join(parts), first, False
    return parts[0], "", False
