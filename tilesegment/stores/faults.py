"""Failures of obstore in words: what was asked, why it failed, what to do.

obstore's own text quotes the server's reply, which may hold identifiers of keys and signatures; only its code is kept.
"""

import re

from tilesegment.errors import DeniedError, StoreError, one_line
from tilesegment.stores.location import Location

BEYOND_THE_END = 416  # status: a range lies behind the end of the object
_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_REGION = re.compile(r"<Region>([\w-]{1,40})</Region>|expecting '([\w-]{1,40})'")
_METADATA_SERVER = ("169.254.169.254", "metadata.google.internal", "169.254.170.2")
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (profiles of ~/.aws are not read)",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS",
    "az": "set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
}
_CERTIFICATE = ("InvalidCertificate", "UnknownIssuer", "InvalidMessage")
_PASSING = {408, 425, 429, 500, 502, 503, 504}


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of the reply that `error` reports; None if there was no reply."""
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def is_passing(error: BaseException) -> bool:
    """Return whether the same request may succeed later: no connection, a cut one, a server that is overloaded."""
    text, status = str(error), status_of(error)
    if isinstance(error, FileNotFoundError) or any(host in text for host in _METADATA_SERVER):
        return False
    if status is not None:
        return status in _PASSING
    return "HTTP error" in text and not any(word in text for word in _CERTIFICATE)


def is_without_ranges(error: BaseException) -> bool:
    """Return whether a server sent the whole object where a part was asked for."""
    return "Range request not supported" in str(error)


def explained(error: BaseException, place: Location, seconds: float) -> OSError:
    """Return the error to raise: FileNotFoundError for a missing object, StoreError for whatever else."""
    if isinstance(error, StoreError):
        return error
    text, status = str(error), status_of(error)
    found = _CODE.search(text)
    code = found[1] if found else ""
    if code == "NoSuchBucket" or "ContainerNotFound" in text or "The specified bucket does not exist" in text:
        return StoreError(f"{place.scheme}://{place.root} does not exist: check the name, create it first")
    if any(host in text for host in _METADATA_SERVER):
        return StoreError(
            f"no credentials for {place}: {_CREDENTIALS.get(place.scheme, 'set them in the environment')}; for public "
            "data --store-option anonymous=true"
        )
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{place} does not exist")
    if "redirect" in text or code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint"):
        region = _REGION.search(text)
        where, name = ("in the region", region[1] or region[2]) if region else ("in another region", "NAME")
        told = f"{where} {name}" if region else where
        return StoreError(f"{place.scheme}://{place.root} is {told}: give --store-option region={name}")
    if status in (401, 403):
        hint = f"; {_CREDENTIALS[place.scheme]}" if place.scheme in _CREDENTIALS else ""
        return DeniedError(f"access to {place} is denied ({code or status}): check the rights of the credentials{hint}")
    if status is not None:
        return StoreError(f"{place}: the server answers {status}{f' ({code})' if code else ''}{_after(seconds)}")
    if "HTTP error" in text:
        reason = _reason(text)
        return StoreError(f"{place} cannot be reached ({reason}){_after(seconds)}: check the address and the network")
    return StoreError(f"{place}: {one_line(text.partition('Debug source')[0], 200)}")


def _reason(text: str) -> str:
    for words, reason in (
        ("ConnectionRefused", "connection refused"),
        ("TimedOut", "no reply in time"),
        ("dns error", "unknown host"),
        *((word, "no trusted certificate") for word in _CERTIFICATE),
    ):
        if words in text:
            return reason
    return "the connection was cut"


def _after(seconds: float) -> str:
    return f", also not after {seconds:.0f} s" if seconds >= 1 else ""
