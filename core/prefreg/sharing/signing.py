"""Signatures of single files by a key, offline, as `model_signing` makes and checks them."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from prefreg.errors import BundleError, UsageError, one_line
from prefreg.files import work_folder

_CURVES = "a PEM file of the curve P-256, P-384 or P-521"
_HOW = "`openssl ecparam -name prime256v1 -genkey -noout -out private.pem` makes one"


def sign(name: str, content: bytes, private_key: Path) -> bytes:
    """Return the signature of a file of this name and content.

    Raises:
        UsageError: The library is not installed, or the file is no private key that it takes.
    """
    with _library() as model_signing, _file(name, content) as file:
        signature = file.with_name("signature")
        try:
            signer = model_signing.signing.Config().use_elliptic_key_signer(private_key=private_key)
        except Exception as error:
            raise UsageError(
                f"{private_key} is no private key to sign with ({_told(error)}). It is {_CURVES} "
                f"without a password; {_HOW}."
            ) from error
        signer.sign(file, signature)
        return signature.read_bytes()


def verify(name: str, content: bytes, signature: bytes, public_key: Path, place: str) -> None:
    """Check that the owner of a key has signed a file of this content; `place` is where it lies.

    Raises:
        UsageError: The library is not installed, or the file is no public key.
        BundleError: It was signed with another key, or changed since.
    """
    with _library() as model_signing, _file(name, content) as file:
        file.with_name("signature").write_bytes(signature)
        try:
            verifier = model_signing.verifying.Config().use_elliptic_key_verifier(
                public_key=public_key
            )
        except Exception as error:
            raise UsageError(
                f"{public_key} is no public key ({_told(error)}). It is {_CURVES}; "
                f"`openssl ec -in private.pem -pubout -out public.pem` makes it."
            ) from error
        try:
            verifier.verify(file, file.with_name("signature"))
        except Exception as error:  # whatever a stranger's signature brings the library to raise
            raise BundleError(
                f"{place} was not signed with the key of {public_key}, or was changed after it "
                "was. Nothing was stored; ask whom you have it from."
            ) from error


@contextmanager
def _library() -> Iterator[Any]:
    try:
        # It takes three seconds to import, and is an extra.
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise UsageError(
            f"Signatures need {error.name}, which is not installed: pip install 'prefreg[signing]'."
        ) from error
    with redirect_stdout(io.StringIO()):  # it prints of older signatures
        yield model_signing


@contextmanager
def _file(name: str, content: bytes) -> Iterator[Path]:
    with work_folder() as folder:
        (folder / name).write_bytes(content)
        yield folder / name


def _told(error: Exception) -> str:
    return one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)
