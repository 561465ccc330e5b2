"""Web addresses without what is secret in them, and without what changes each time they are signed."""

from __future__ import annotations

import re
from urllib.parse import unquote

LONGEST_SHOWN = 200
"""No message, log or record holds more characters of an address."""

# Case is ignored. What images are processed with (`x-oss-process`) says which image it is, and stays.
_SIGNATURE = re.compile(
    r"x-amz-.*|x-goog-.*|x-(oss|tos|cos|obs|ms)-(?!process).*|awsaccesskeyid|googleaccessid"
    r"|ossaccesskeyid|key-pair-id|signature|sig|expires|security-token|hmac|hdnts|hdnea|hdntl|__token__"
    r"|__gda__|q-(sign-algorithm|ak|sign-time|key-time|header-list|url-param-list|signature)"
)
"""What S3, Google, Alibaba, Volcano, Tencent, Huawei, CloudFront and Akamai sign addresses with."""
_COMPANIONS = {
    # Azure's shared access signature, whose short names mean something else without it.
    "sig": {
        "sv",
        "ss",
        "srt",
        "sr",
        "st",
        "se",
        "sp",
        "spr",
        "sip",
        "si",
        "ses",
        "sdd",
        "skoid",
        "sktid",
        "skt",
        "ske",
        "sks",
        "skv",
        "saoid",
        "suoid",
        "scid",
    },
    "signature": {"policy", "hash-algorithm", "accesskeyid"},  # CloudFront, Huawei
    "expires": {"token", "token_path", "token_ver", "verify"},  # Bunny and others
    "hm": {"ex", "is", "hm"},  # Discord
}
"""Parameters that belong to a signature only beside the one that is named first."""
_MORE_SIGNATURES = re.compile(r"x-expires|x-signature|auth_key|authorization|_upt|ucloudpublickey")
"""What ByteDance, Alibaba's CDN, Backblaze, Baidu, UPYUN and UCloud sign addresses with."""
_MORE_COMPANIONS = {
    "sig": {"exp"},  # Cloudflare Images, Notion
    "signature": {"keyname", "urlprefix", "expirationtimestamp"},  # Google's CDN, Notion
    "expires": {"md5"},  # nginx, Gcore
    "expire": {"expire", "token"},  # KeyCDN
    "e": {"e", "token"},  # Qiniu
    "st": {"st", "e"},  # lighttpd
    "oh": {"oh", "oe"},  # Instagram
    "sign": {"sign", "t"},  # Tencent's CDN
    "x-amz-signature": {"x-id"},  # which newer SDKs add
}
_SIGNED_VALUE = re.compile(
    r"verify=\d{10}-[\w+/-]{20,}=*"  # Cloudflare
    r"|\w+=\d{10}-\w+-\w+-[0-9a-f]{32}"  # Alibaba's and Tencent's CDN
    r"|\w+=\d{10}_[0-9a-f]{40,64}"  # Fastly
    r"|[\w-]+=(st=\d+~)?exp=\d+~.*hmac=[0-9a-f]+"  # Akamai, Cloudinary, Google's Media CDN
    r"|s=[0-9a-f]{32}"  # imgix
)
_SECRET = re.compile(
    r"(.*[_-])?(auth|authorization|key|pwd|pass|sign|session|sessionid|jwt|bearer|credentials?)"
    r"|.*(token|secret|password|passwd|passphrase|signature|(api|access|auth|secret|private|shared)key)"
)
"""Parameters that are never shown, but may well say which image it is."""
_JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")
_WITHIN = re.compile(
    r"(?<=[?&;])((?:x-[a-z]+-)?(?:signature|credential|security-token)|sig)=[^\s&\"'<>]+"
    r"|(?:(?<=%3f)|(?<=%26))((?:x-[a-z]+-)?(?:signature|credential|security-token)|sig)%3d"
    r"(?:(?!%26)[^\s&\"'<>])+",
    re.IGNORECASE,
)
"""Signatures without their address, as in a path, and in an address that is a parameter of another."""
_TOLD = re.compile(
    r"(signature\w{0,12}\W{1,6})(?:[0-9a-f]{64}|[\w+/]{27}(?:=|%3d))|\b(A[KS]IA)[0-9A-Z]{12,20}\b",
    re.IGNORECASE,
)
"""Signatures of S3 and ids of its keys, as servers tell of them."""
_USERINFO_WITHIN = re.compile(r"(?<=%2f%2f)(?:(?!%2f|%3f|%23)[^\s&/?#])*%40", re.IGNORECASE)
_USERINFO = re.compile(r"^([a-z][a-z0-9+.-]*:)?//[^/?#]*@", re.IGNORECASE)


def unsigned(url: str, *, as_before: bool = False) -> str:
    """A URL without the query parameters that are a signature: the same however often it is signed.

    Args:
        url: Any text.
        as_before: By the rules that the first batches had whose keys left signatures out.

    Returns:
        The URL; to the letter what was given if it is not signed.
    """
    return _without(url, _signature_names(url, as_before))


def without_signature(url: str, longest: int | None = None) -> str:
    """A URL fit for records, manifests, pages, logs and errors.

    Args:
        url: Any text.
        longest: At most so many characters; by default as many as there are.

    Returns:
        The URL without user name, password, signature and other secrets of its query; of a `data:` URL
        its kind only.
    """
    if url[:5].lower() == "data:":
        return url[:40].partition(",")[0] + ",..."
    signature = _signature_names(url)
    clean = _without(url, signature, _SECRET)
    clean = _USERINFO.sub(lambda found: f"{found[1] or ''}//", clean)
    # A password with an unescaped slash is cut off, too, and then looks like a port and a path.
    host = re.match(r"([a-z][a-z0-9+.-]*:)?//[^/?#\[\]]*:(?!\d*([/?#]|$))", clean, re.IGNORECASE)
    if host is not None and "@" in clean:
        clean = f"{host[1] or ''}//{clean.rpartition('@')[2]}"
    clean = without_loose_signatures(clean)
    if longest is not None and len(clean) > longest:
        clean = clean[: longest - 3] + "..."
    return clean


def without_userinfo(text: str) -> str:
    """What somebody gave as an address, however mistyped, without user name and password."""
    before, at, after = text.rpartition("@")
    scheme = re.match(r"[^@]*?[/\\]{2}", before)
    return f"{scheme[0] if scheme else ''}...@{after}" if at and ":" in before else text


def without_loose_signatures(text: str) -> str:
    """A text without signatures that stand in it apart from an address, or inside of another."""
    text = _TOLD.sub(lambda found: f"{found[1] or found[2]}...", text)
    return _USERINFO_WITHIN.sub("", _WITHIN.sub("...", text))


def _name_and_value(parameter: str) -> tuple[str, str]:
    name, _, value = parameter.partition("=")
    # Addresses that were copied out of HTML have their separators escaped.
    return unquote(name).strip().lower().removeprefix("amp;"), unquote(value)


def _signature_names(url: str, as_before: bool = False) -> set[str]:
    """The names, in lower case, of those parameters that are a signature."""
    given = dict(map(_name_and_value, re.split("[?&#]", url)[1:]))
    names = {name for name, value in given.items() if _SIGNATURE.fullmatch(name) or _JWT.match(value)}
    if not as_before:
        names |= {name for name, value in given.items() if _is_signed(name, value)}
    for companies in (_COMPANIONS,) if as_before else (_COMPANIONS, _MORE_COMPANIONS):
        for name, companions in companies.items():
            if name in given and (name in names or companions <= given.keys()):
                names |= companions & given.keys()
    return names


def _is_signed(name: str, value: str) -> bool:
    found = _MORE_SIGNATURES.fullmatch(name) or _SIGNED_VALUE.fullmatch(f"{name}={value}")
    return found is not None


def _without(url: str, names: set[str], secret: re.Pattern[str] | None = None) -> str:
    def stays(parameter: str) -> bool:
        name, _ = _name_and_value(parameter)
        return name not in names and not (secret and "=" in parameter and secret.fullmatch(name))

    head, *rest = re.split("([?#])", url)
    for mark, part in zip(rest[::2], rest[1::2], strict=True):
        given = part.split("&")
        kept = [parameter for parameter in given if stays(parameter)]
        head += mark + "&".join(kept) if len(kept) == len(given) or kept else ""
    return head
