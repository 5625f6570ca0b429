"""Signed corpora of made-up articles."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.corpora.corpus import Article, Manifest, line_of, part_named, parts_of, sign_manifest
from fedhealth.signing import public_key_hex

KEYS = {name: Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32)) for name in ("hungary", "va", "mallory")}


def articles(count, text="A text."):
    return [Article(key=f"{number:06}", title=f"Title {number}", text=f"{text} {number}") for number in range(count)]


def signed(site="hungary", corpus="open", version=1, some=None, key=None, **fields):
    """Return the bytes of a signed manifest, its parts, and how it is called."""
    parts = list(parts_of(line_of(each) for each in (articles(3) if some is None else some)))
    key = key or KEYS[site]
    manifest = Manifest(
        site=site,
        corpus=corpus,
        licence="CC-BY-4.0" if parts else "",
        version=version,
        articles=len(articles(3) if some is None else some),
        parts=tuple(map(part_named, parts)),
        key=public_key_hex(key.public_key()),
    ).model_copy(update=fields)
    return sign_manifest(manifest, key), parts, (site, corpus)


def taken_in(store, made):
    """Have a store take a corpus in, with all of its parts."""
    data, parts, address = made
    store.accept(data, address)
    for part in store.missing(address):
        store.put(address, part, next(each for each in parts if part_named(each) == part))
    return address
