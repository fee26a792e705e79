"""The columns of a data set that is not loaded yet: from a small file beside it, from its page, or from a Parquet file.

Nothing is said where that would take long or might be wrong, such as of folders with images: loading tells then.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from simpletuner.data.sources.rows.kinds import Kinds, of_features, of_page, of_schema
from simpletuner.data.sources.rows.load import Address, is_saved
from simpletuner.storage.ranged import open_ranged
from simpletuner.storage.retries import Unreachable

if TYPE_CHECKING:
    from huggingface_hub import DatasetInfo

Page = Mapping[str, Any]
"""What the page of a data set says at its head, in whatever shape somebody wrote it."""


def foreseen(address: Address) -> Kinds | None:
    """What the columns hold; nothing where that cannot be told without loading rows.

    Raises:
        Unreachable: The Hub does not answer.
        DataError: There are no such rows.
    """
    if address.path.exists():
        return _of_folder(address) if address.path.is_dir() else _of_file(address, address.path)
    if address.name.startswith((".", "/", "~")):
        raise address.error("cannot be loaded: there is no such folder. Check dataset_name.")
    return _of_hub(address)


def _of_folder(address: Address) -> Kinds | None:
    if is_saved(address.path):
        return _of_saved(address)
    found = _first_parquet(address.path)
    return None if found is None else _of_file(address, found)


def _of_saved(address: Address) -> Kinds | None:
    """What `save_to_disk` wrote beside the rows."""
    index, folder = address.path / "dataset_dict.json", address.path
    try:
        if index.is_file():
            _refuse_other_splits(address, json.loads(index.read_text(encoding="utf-8"))["splits"])
            folder = address.path / address.split
        features = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))["features"]
    except (OSError, ValueError, KeyError):
        return None
    return of_features(features) if isinstance(features, Mapping) else None


def _first_parquet(folder: Path) -> Path | None:
    """The first table of a folder that holds tables alone."""
    first: Path | None = None
    for parent, _, names in os.walk(folder):
        for name in sorted(names):
            suffix = PurePosixPath(name).suffix.lower()
            if suffix == ".parquet":
                first = first or Path(parent, name)
            elif suffix not in _BESIDE:
                return None
    return first


def _of_file(address: Address, path: Path) -> Kinds | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() != ".parquet":
        return None
    try:
        return of_schema(pq.read_schema(path))
    except (OSError, pa.ArrowException) as error:
        raise address.error(f"cannot be loaded: {path} is damaged ({error}). Copy or download it again.") from error


def _of_hub(address: Address) -> Kinds | None:
    info = _asked(address)
    page: Page = {name: info.card_data.get(name) for name in _TOLD} if info.card_data else {}
    chosen = _collection(address, page)
    splits = _splits(page, chosen)
    if splits:
        _refuse_other_splits(address, list(splits))
    if (features := _features(page, chosen)) is not None:
        return of_page(features)
    path = _table(address, [one.rfilename for one in info.siblings or ()], splits)
    return None if path is None else _of_far_file(address, path)


def _asked(address: Address) -> DatasetInfo:
    """What the Hub says about a data set, in one answer."""
    from huggingface_hub import HfApi

    with _failures_told(address):
        found = HfApi().dataset_info(address.name, revision=address.revision, timeout=_SECONDS)
        if found.gated:
            HfApi().auth_check(address.name, repo_type="dataset")
        return found


def _collection(address: Address, page: Page) -> str | None:
    """The collection that is used, as far as the page names them; None where it names none."""
    known = [str(one["config_name"]) for one in _objects(page.get("configs")) if one.get("config_name")]
    if address.subset is not None:
        if known and address.subset not in known:
            raise address.error(f"has no subset '{address.subset}', only {', '.join(known)}. Change subset.")
        return address.subset
    default = [str(one["config_name"]) for one in _objects(page.get("configs")) if one.get("default")]
    usual = default or [name for name in known if name == "default"] or known
    if len(usual) > 1:
        raise address.error(f"has several subsets: {', '.join(known)}. Choose one of them with subset.")
    return usual[0] if usual else None


def _splits(page: Page, chosen: str | None) -> Mapping[str, Sequence[str]]:
    """The files of each split, where the page names splits."""
    mine = [one for one in _objects(page.get("configs")) if one.get("config_name") == chosen]
    files = _objects(mine[0].get("data_files")) if mine else []
    return {str(one["split"]): _texts(one.get("path")) for one in files if one.get("split")}


def _features(page: Page, chosen: str | None) -> Sequence[Page] | None:
    """What the page says of the columns."""
    told = page.get("dataset_info")
    infos = [told] if isinstance(told, Mapping) else _objects(told)
    mine = [one for one in infos if one.get("config_name", chosen) == chosen] or (infos if len(infos) == 1 else [])
    return _objects(mine[0].get("features")) or None if mine else None


def _refuse_other_splits(address: Address, known: Sequence[str]) -> None:
    """Raise for a split that is not there; train+test and train[:10%] are parts of splits."""
    wanted = [part.partition("[")[0].strip() for part in address.split.split("+")]
    absent = [name for name in wanted if name not in known and name != "all"]
    if absent:
        raise address.error(f"cannot be loaded: it has no split '{absent[0]}', only {', '.join(known)}. Change split.")


def _table(address: Address, files: Sequence[str], splits: Mapping[str, Sequence[str]]) -> str | None:
    """One Parquet file with the rows that are asked for, in a repository that holds tables alone."""
    suffixes = Counter(PurePosixPath(name).suffix.lower() for name in files)
    tables = sorted(name for name in files if name.lower().endswith(".parquet"))
    if address.subset is not None and not splits:
        return None
    if any(suffix not in {*_BESIDE, ".parquet"} for suffix in suffixes):
        return None
    patterns = splits.get(re.split(r"[\[+]", address.split)[0], ())
    return next((name for name in tables if not patterns or any(fnmatch(name, one) for one in patterns)), None)


def _of_far_file(address: Address, path: str) -> Kinds | None:
    """The columns of a Parquet file on the Hub: they stand at its end, and nothing else of it is fetched."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from huggingface_hub import get_hf_file_metadata, get_session, get_token, hf_hub_url

    url = hf_hub_url(address.name, path, repo_type="dataset", revision=address.revision)
    token = get_token()
    who = {"Authorization": f"Bearer {token}"} if token else {}

    def fetch(start: int, length: int) -> bytes:
        wanted = {**who, "Range": f"bytes={start}-{start + length - 1}"}
        answer = get_session().get(url, headers=wanted, timeout=_SECONDS, follow_redirects=True)
        answer.raise_for_status()
        return bytes(answer.content)

    with _failures_told(address):
        size = get_hf_file_metadata(url, timeout=_SECONDS).size
        try:
            return of_schema(pq.read_schema(open_ranged(fetch, b"", size))) if size else None
        except pa.ArrowException:  # loading says what is wrong with it
            return None


@contextmanager
def _failures_told(address: Address) -> Iterator[None]:
    """Turn what the Hub's client raises into what the user can change, or into silence of the Hub."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    # The error of the HTTP library that the Hub client uses, which has changed over time: the base of its own.
    network_error: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        yield
    except RevisionNotFoundError as error:
        raise address.error(f"cannot be loaded: it has no revision '{address.revision}'. Change revision.") from error
    except GatedRepoError as error:
        raise address.error(f"cannot be loaded: it is gated. {_LICENCE}") from error
    except RepositoryNotFoundError as error:
        raise address.error(f"cannot be loaded: it is not on the Hub, or not open to you. {_NAME}") from error
    except (network_error, OSError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise Unreachable(f"{address.name} could not be looked up on the Hub: {reason}") from error


def _objects(given: object) -> list[Page]:
    found = given if isinstance(given, Sequence) and not isinstance(given, str) else ()
    return [one for one in found if isinstance(one, Mapping)]


def _texts(given: object) -> list[str]:
    return [str(one) for one in given] if isinstance(given, (list, tuple)) else [str(given)]


_TOLD = ("configs", "dataset_info")
_SECONDS = 3.0
_LICENCE = "Accept its licence on its page on the Hub, and set HF_TOKEN to a token that may read it."
_NAME = "Check dataset_name: it is an id such as owner/name, or a folder; for a private data set, set HF_TOKEN."
_BESIDE = frozenset({"", ".md", ".gitattributes", ".gitignore"})
"""Endings of files that hold no rows."""
