"""What the failures of a bucket mean: which ones pass, and what the user can do about the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simpletuner.errors import DataError
from simpletuner.storage.retries import Unreachable

if TYPE_CHECKING:
    from botocore.exceptions import ClientError


class Damaged(Exception):
    """What arrived is not what was sent."""


def troubles() -> tuple[type[Exception], ...]:
    """Every kind of error that asking a bucket can raise."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    return BotoCoreError, ClientError, ResponseParserError, HTTPError, Damaged


def passes(error: Exception) -> bool:
    """Whether the same request may well succeed a moment later."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        return code_of(error) in _PASSING or status_of(error) in _PASSING_STATUS
    return _is_of_the_network(error) and "CERTIFICATE_VERIFY_FAILED" not in str(error)


def never_arrived(error: Exception) -> bool:
    """Whether there was not even a connection."""
    from botocore.exceptions import ConnectionError

    return isinstance(error, ConnectionError)


def code_of(error: ClientError) -> str:
    """The word with which the service says what is wrong, such as NoSuchBucket."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """The number with which the service says what is wrong, such as 404."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def told(error: Exception, what: str, *, seconds: float = 0.0, tries: int = 1) -> DataError:
    """The same failure in the user's words.

    Args:
        error: What was raised.
        what: What did not work: "cannot read s3://bucket/key at http://host".
        seconds: How long it was tried.
        tries: How often it was tried.
    """
    kind, reason, remedy = _meaning(error)
    insisted = f", in {tries} tries within {seconds:.0f} s" if tries > 1 else ""
    return kind(f"{what}: {reason}{insisted}. {remedy}")


def _meaning(error: Exception) -> tuple[type[DataError], str, str]:
    """Whether the whole place is out of reach or only one thing in it, what is wrong, and what to do."""
    from botocore.exceptions import ClientError

    if not isinstance(error, ClientError):
        return Unreachable, *_trouble(error)
    kind, remedy = _refusal(error)
    code, status = code_of(error), status_of(error)
    return kind, f"it answers {status}" if code == str(status) else f"it answers {code} ({status})", remedy


def _refusal(error: ClientError) -> tuple[type[DataError], str]:
    code, status = code_of(error), status_of(error)
    if code in _REFUSALS:
        return _REFUSALS[code]
    if passes(error):
        return Unreachable, _LATER
    if status in {401, 403}:
        return DataError, _FORBIDDEN
    if status in {301, 307}:
        return Unreachable, _ELSEWHERE
    return DataError, "See what the service says about this, or use another bucket."


def _trouble(error: Exception) -> tuple[str, str]:
    from botocore import exceptions as known

    for kind, reason, remedy in (
        ((known.NoCredentialsError, known.PartialCredentialsError), "there are no credentials for it", _NO_KEYS),
        ((known.ProfileNotFound, known.ConfigParseError), "your AWS profile cannot be used", _PROFILE),
        ((known.CredentialRetrievalError, known.TokenRetrievalError, known.SSOError), "you are logged out", _LOGIN),
        (known.SSLError, "there is no secure connection", _CERTIFICATE),
        (known.ConnectionError, "there is no connection", _ADDRESS),
        ((known.NoRegionError, known.InvalidRegionError), "its region is not known", _ELSEWHERE),
        (known.ParamValidationError, "this is no name for a bucket", _NAME),
        (known.ReadTimeoutError, "it stopped answering", _LATER),
        (Damaged, "what arrives is damaged", _LATER),
    ):
        if isinstance(error, kind):
            return reason, remedy
    return "the connection is cut", _LATER


def _is_of_the_network(error: Exception) -> bool:
    from botocore import exceptions as known
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    cut = (known.IncompleteReadError, known.FlexibleChecksumError, ResponseParserError, HTTPError, Damaged)
    return isinstance(error, (known.HTTPClientError, known.ConnectionError, *cut))


_PASSING_STATUS = {408, 429, 500, 502, 503, 504, 520, 522, 524}

_PASSING = {
    "SlowDown",
    "InternalError",
    "ServiceUnavailable",
    "RequestTimeout",
    "RequestTimeoutException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "BadDigest",
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
    "OperationAborted",
    "PriorRequestNotComplete",
}

_KEYS = "Check aws_access_key_id and aws_secret_access_key."
_NO_KEYS = (
    "No credentials were found: give aws_access_key_id and aws_secret_access_key, "
    "or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
)
_PROFILE = "Check AWS_PROFILE and the files in ~/.aws."
_LOGIN = "Log in again, or give aws_access_key_id and aws_secret_access_key."
_CERTIFICATE = "Check aws_endpoint_url, or set AWS_CA_BUNDLE when its certificate is your own."
_ADDRESS = "Check aws_endpoint_url and that the service runs and can be reached from here."
_ELSEWHERE = "The bucket is in another region: check aws_region_name and aws_endpoint_url."
_NAME = "Check aws_bucket_name: it is the name of the bucket alone, without s3:// and without folders."
_LATER = "Try again later; what is done already is kept."
_FORBIDDEN = "Check that your access key and its secret are right, and that they may list, read and write there."
_CLOCK = "The clock of this machine is wrong: set it, and start again."
_FULL = "There is no room left: make some, or choose another place in the config."

_REFUSALS: dict[str, tuple[type[DataError], str]] = {
    "NoSuchBucket": (Unreachable, "There is no bucket of this name: check aws_bucket_name and aws_endpoint_url."),
    "InvalidBucketName": (Unreachable, _NAME),
    "InvalidAccessKeyId": (Unreachable, "This access key is not known there: check aws_access_key_id."),
    "SignatureDoesNotMatch": (Unreachable, "The secret is wrong: check aws_secret_access_key."),
    "InvalidToken": (Unreachable, _LOGIN),
    "InvalidClientTokenId": (Unreachable, _KEYS),
    "ExpiredToken": (Unreachable, _LOGIN),
    "ExpiredTokenException": (Unreachable, _LOGIN),
    "AccountProblem": (Unreachable, "Ask the provider about your account."),
    "AllAccessDisabled": (Unreachable, "Ask the provider about your account."),
    "RequestTimeTooSkewed": (Unreachable, _CLOCK),
    "PermanentRedirect": (Unreachable, _ELSEWHERE),
    "AuthorizationHeaderMalformed": (Unreachable, _ELSEWHERE),
    "IllegalLocationConstraintException": (Unreachable, _ELSEWHERE),
    "QuotaExceeded": (DataError, _FULL),
    "XMinioStorageFull": (DataError, _FULL),
    "InsufficientStorage": (DataError, _FULL),
    "PreconditionFailed": (DataError, "It was replaced while it was read: start again."),
    "InvalidObjectState": (DataError, "It is in an archive: restore it first."),
}
"""What the service says, whether the whole place is out of reach by that, and what to change."""
