"""What of an address is a signature, and what may be shown of it."""

from __future__ import annotations

import pytest

from prefect_nanobanana._common.addresses import unsigned, without_signature

H = "https://host.example/a%2fb/cat.png"
V4 = "X-Amz-Algorithm=AWS4&X-Amz-Credential=AKIA%2F1%2Fs3&X-Amz-Date=20261101T000000Z&X-Amz-Expires=9"
AZURE = "sv=2024-11-04&st=2026-11-01T00%3A00Z&se=2026-11-02T00%3A00Z&sr=b&sp=r&spr=https&sip=1.2.3.4"
USER_KEY = "skoid=1&sktid=2&skt=3&ske=4&sks=b&skv=2024-11-04"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjE3fQ.c2lnbmF0dXJl"

SIGNED = {
    "AWS version 4": (f"{H}?{V4}&X-Amz-SignedHeaders=host&X-Amz-Signature=hush", H),
    "AWS with a session": (f"{H}?v=2&{V4}&X-Amz-Security-Token=hush&X-Amz-Signature=hush", f"{H}?v=2"),
    "AWS, lower case": (f"{H}?{V4.lower()}&x-amz-signature=hush&v=2", f"{H}?v=2"),
    "AWS, object versions": (f"{H}?versionId=7&{V4}&X-Amz-Signature=hush", f"{H}?versionId=7"),
    "AWS version 2": (f"{H}?AWSAccessKeyId=AKIA&Signature=hush%3D&Expires=1793000000&a=", f"{H}?a="),
    "Google": (f"{H}?X-Goog-Algorithm=GOOG4&X-Goog-Credential=c&X-Goog-Signature=hush", H),
    "Google version 2": (f"{H}?GoogleAccessId=a@b&Expires=1793000000&Signature=hush&g=7", f"{H}?g=7"),
    "Azure": (f"{H}?{AZURE}&sig=hush%3D", H),
    "Azure, a user's key": (f"{H}?{USER_KEY}&{AZURE}&sig=hush&snapshot=2026", f"{H}?snapshot=2026"),
    "CloudFront": (f"{H}?size=l&Expires=1&Signature=hush&Key-Pair-Id=K2", f"{H}?size=l"),
    "CloudFront, a policy": (f"{H}?Policy=eyJ9&Signature=hush&Key-Pair-Id=K&Hash-Algorithm=SHA256", H),
    "Alibaba": (f"{H}?OSSAccessKeyId=k&Expires=1&Signature=hush&security-token=hush", H),
    "Alibaba version 4": (
        f"{H}?x-oss-process=image/resize,w_9&x-oss-date=1&x-oss-signature=hush",
        f"{H}?x-oss-process=image/resize,w_9",
    ),
    "Tencent": (f"{H}?q-sign-algorithm=sha1&q-ak=k&q-sign-time=1;2&q-key-time=1;2&q-signature=hush", H),
    "Volcano": (f"{H}?X-Tos-Credential=c&X-Tos-Expires=1&X-Tos-Signature=hush", H),
    "Supabase": (f"{H}?token={JWT}", H),
    "Bunny": (f"{H}?token=hush&expires=1793000000&class=small", f"{H}?class=small"),
    "Discord": (f"{H}?ex=69&is=68&hm=hush&", f"{H}?"),
    "Akamai": (f"{H}?hdnts=exp=1~hmac=hush&w=3", f"{H}?w=3"),
    "Cloudflare Images": (f"{H}?exp=1793000000&sig=hush", H),
    "Cloudflare's verify": (f"{H}?w=2&verify=1793000000-9JQB8vP1z0yc5DEBnH6JGWM3mBmvIeM%3D", f"{H}?w=2"),
    "Notion": (f"{H}?id=7&expirationTimestamp=1793000000000&signature=hush", f"{H}?id=7"),
    "Google's CDN": (f"{H}?Expires=1&KeyName=k&Signature=hush", H),
    "Google's Media CDN": (f"{H}?Edge-Cache-Token=st=1~exp=2~hmac=68757368", H),
    "Cloudinary": (f"{H}?__cld_token__=exp=1793000000~acl=%2fa%2f*~hmac=68757368", H),
    "Akamai's token": (f"{H}?token=st=1~exp=2~acl=/*~hmac=68757368", H),
    "Alibaba's CDN": (f"{H}?auth_key=1793000000-0-0-{'ab' * 16}", H),
    "Tencent's CDN": (f"{H}?sign=1793000000-abc-0-{'ab' * 16}&v=2", f"{H}?v=2"),
    "Tencent's CDN, type D": (f"{H}?sign={'ab' * 16}&t=1793000000", H),
    "ByteDance": (f"{H}?lk3s=8&x-expires=1793000000&x-signature=hush%3D", f"{H}?lk3s=8"),
    "Qiniu": (f"{H}?imageView2/2/w/9&e=1793000000&token=ak:hush%3D", f"{H}?imageView2/2/w/9"),
    "UPYUN": (f"{H}?_upt=hush1793000000", H),
    "Backblaze": (f"{H}?Authorization=3_2026_hush", H),
    "Baidu": (f"{H}?authorization=bce-auth-v1%2Fhush", H),
    "KeyCDN": (f"{H}?token=hush&expire=1793000000", H),
    "Fastly": (f"{H}?token=1793000000_{'ab' * 20}", H),
    "nginx": (f"{H}?md5=hush&expires=1793000000", H),
    "lighttpd": (f"{H}?st=hush&e=1793000000", H),
    "imgix": (f"{H}?w=9&expires=1793000000&s={'ab' * 16}", f"{H}?w=9"),
    "Instagram": (f"{H}?stp=s640&oh=hush&oe=69AB", f"{H}?stp=s640"),
    "AWS, newer SDKs": (f"{H}?{V4}&X-Amz-Signature=hush&x-id=GetObject", H),
    "escaped names": (f"{H}?%58-Amz-Signature=hush&v=2", f"{H}?v=2"),
    "out of HTML": (f"{H}?v=2&amp;X-Amz-Date=1&amp;X-Amz-Signature=hush", f"{H}?v=2"),
    "before a fragment": (f"{H}?sig=hush#top", f"{H}#top"),
    "in a fragment": (f"{H}#X-Amz-Signature=hush", H),
}


@pytest.mark.parametrize("case", SIGNED)
def test_a_signature_is_left_out(case: str) -> None:
    url, bare = SIGNED[case]
    assert unsigned(url) == without_signature(url) == bare


@pytest.mark.parametrize(
    "url",
    [
        H,
        f"{H}?",
        f"{H}?v=2&&w=%c3%a4+x&v=3#top",
        f"{H}?se=2&sp=3&sv=1&sr=x",  # Azure's names, but no signature
        f"{H}?policy=a",
        f"{H}?is=1&ex=2",
        f"{H}?ex=2&hm=3",
        f"{H}?verify=a",
        f"{H}?signatures=a&mysig=b&expiresin=c",
        f"{H}?x-oss-process=style/a",
        f"{H}?e=1&t=2",
        f"{H}?exp=a&oe=b&md5=c&keyname=d&x-id=e",
        f"{H}?s=200&star=leo&verify=1",
        f"{H}?expire=never&t=5",
        "no address, sig and all",
        "",
        "s3://bucket/key with spaces",
    ],
)
def test_what_is_not_signed_stays_to_the_letter(url: str) -> None:
    assert unsigned(url) == without_signature(url) == url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://ada:hush@host.example:8443/a?b=1", "https://host.example:8443/a?b=1"),
        ("https://hush@host.example", "https://host.example"),
        ("https://ada:hu@sh@host.example/a@b", "https://host.example/a@b"),
        ("https://ada:hu/sh@host.example/a", "https://host.example/a"),
        ("//ada:hush@host.example/a", "//host.example/a"),
        ("HTTP://ada:hush@[::1]:80/a", "HTTP://[::1]:80/a"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
        (f"{H}?token=hush&v=2", f"{H}?v=2"),
        (f"{H}?api_key=hush&access_token=hush&key=hush&X-Api-Key=hush", H),
        (f"{H}?accessToken=hush&clientSecret=hush&apiKey=hush&userPassword=hush&w=3", f"{H}?w=3"),
        (f"{H}?wsSecret=hush&sign=hush&pass=hush&x-signature=hush&credential=hush", H),
        (f"{H}?accesskey=hush&monkey=a&design=b&compass=c", f"{H}?monkey=a&design=b&compass=c"),
        (
            f"{H}?url=https%3A%2F%2Fme%3Ahush%40b.example%2Fx%3FX-Amz-Signature%3Dhush%26v%3D2&w=3",
            f"{H}?url=https%3A%2F%2Fb.example%2Fx%3F...%26v%3D2&w=3",
        ),
        (f"{H}?a=1;sig=hush", f"{H}?a=1;..."),
        ("data:image/png;base64,aHVzaA==", "data:image/png;base64,..."),
        ("DATA:,hush", "DATA:,..."),
    ],
)
def test_what_is_secret_is_not_shown(url: str, shown: str) -> None:
    assert without_signature(url) == shown


def test_what_is_shown_is_short() -> None:
    url = f"{H}?a={'x' * 500}"
    assert without_signature(url) == url
    assert len(without_signature(url, 200)) == 200
    assert without_signature(H, 200) == H
