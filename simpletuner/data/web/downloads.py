"""Images from the web, each one downloaded once into a store; what is there already is never asked for again."""

from __future__ import annotations

import heapq
import io
import json
import queue
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

import xxhash

from simpletuner.data import images
from simpletuner.data.web.connections import Failure, Hope, Limits, is_public
from simpletuner.data.web.fetching import Fetcher, trusted
from simpletuner.progress import Advanced, Reporter, StageStarted
from simpletuner.seeds import derive
from simpletuner.storage.store import Entry, Store


@runtime_checkable
class Preparable(Protocol):
    """A source that has work to do before it can be listed, such as downloads."""

    def prepare(self, reporter: Reporter) -> None:
        """Do that work, and tell how far it is; called once before the source is listed."""


@dataclass(frozen=True)
class Fetched:
    """What is there after downloading, and why the rest is not; by the checksum of the address."""

    files: Mapping[str, Entry]
    failures: Mapping[str, str]


class Downloads:
    """A store of downloaded images: their keys are made of a checksum of the address and the kind of the image.

    A file is written when it is complete and was looked at, so that an interrupted run leaves only whole images and
    the next one goes on where it ended. Addresses that are gone for good are remembered, and not asked for again.
    """

    def __init__(
        self,
        store: Store,
        limits: Limits | None = None,
        *,
        workers: int = 16,
        may_connect: Callable[[str], bool] = is_public,
    ) -> None:
        """`workers` is how many downloads run at once, `may_connect` is asked about every IP address."""
        self._store = store
        self._limits = limits or Limits()
        self._workers = workers
        self._may_connect = may_connect

    def fetch(self, urls: Iterable[str], reporter: Reporter, *, stage: str) -> Fetched:
        """Download what is missing; an address that gives nothing is a reason in `failures`, not an error."""
        files, gone = self.files(), _Gone.load(self._store)
        missing = [url for url in dict.fromkeys(urls) if name_of(url) not in files]
        known = {name: reason for name in map(name_of, missing) if (reason := gone.reason(name, self._limits))}
        wanted = [url for url in missing if name_of(url) not in known]
        if not wanted:
            return Fetched(files, known)
        reporter.report(StageStarted(stage, len(wanted)))
        failures = self._fetch(wanted, gone, reporter)
        return Fetched(self.files(), {**known, **failures})

    def files(self) -> dict[str, Entry]:
        """What is there, by the checksum of its address."""
        found: dict[str, Entry] = {}
        for entry in self._store.entries():
            name, dot, ending = entry.key.rpartition("/")[2].partition(".")
            if dot + ending in _SUFFIXES and entry.size:
                found[name] = entry
        return found

    @property
    def memory(self) -> str:
        """The file that remembers which addresses are gone for good."""
        return f"{self._store.name}/{_Gone.KEY}"

    def _fetch(self, urls: Iterable[str], gone: _Gone, reporter: Reporter) -> dict[str, str]:
        """Why addresses give nothing, of those that do."""
        failures: dict[str, str] = {}
        try:
            for url, failure in self._outcomes(urls):
                if failure is not None:
                    failures[name_of(url)] = failure.reason
                    gone.note(name_of(url), failure, self._store)
                reporter.report(Advanced(1))
        finally:
            gone.save(self._store)
        return failures

    def _outcomes(self, urls: Iterable[str]) -> Iterator[tuple[str, Failure | None]]:
        """Every address with why it failed at last, in the order in which they are done."""
        stop, certificates, idle = threading.Event(), trusted(), queue.SimpleQueue[Fetcher]()
        with ExitStack() as stack:
            for _ in range(self._workers):
                idle.put(stack.enter_context(self._fetcher(stop, certificates)))
            threads = stack.enter_context(ThreadPoolExecutor(self._workers, "download"))
            try:
                schedule = _Schedule(urls, self._limits)
                yield from _worked_off(schedule, lambda url: threads.submit(self._download, url, idle), self._workers)
            finally:
                stop.set()
                threads.shutdown(cancel_futures=True)

    def _fetcher(self, stop: threading.Event, certificates: ssl.SSLContext) -> Fetcher:
        return Fetcher(self._limits, may_connect=self._may_connect, judge=_judge, stop=stop, certificates=certificates)

    def _download(self, url: str, idle: queue.SimpleQueue[Fetcher]) -> Failure | None:
        fetcher = idle.get()
        try:
            data = fetcher.get(url)
        except Failure as failure:
            return failure
        finally:
            idle.put(fetcher)
        return self._keep(name_of(url), data)

    def _keep(self, name: str, data: bytes) -> Failure | None:
        """Write an image, unless it turns out to be none."""
        try:
            _judge(data[:_HEAD], "")
            images.probe(io.BytesIO(data))
        except Failure as failure:
            return failure
        except images.Unreadable as error:
            return Failure(f"the file is no image that can be used: {error}", Hope.NONE)
        self._store.write(key_of(name, suffix_of(data[:_HEAD])), data)
        return None


def name_of(url: str) -> str:
    """The checksum that stands for an address; what comes after # is for browsers only."""
    return xxhash.xxh3_128_hexdigest(url.partition("#")[0].encode(errors="surrogatepass"))


def key_of(name: str, suffix: str) -> str:
    """Where the image of an address is kept."""
    return f"{name[:2]}/{name}{suffix}"


def suffix_of(head: bytes) -> str:
    """The ending that fits the content of an image, told by its first bytes; empty when it is no image."""
    if head[4:8] == b"ftyp":
        return ".avif" if b"avi" in head[8:32] else ""
    if head[:4] == b"RIFF":
        return ".webp" if head[8:12] == b"WEBP" else ""
    return next((suffix for start, suffix in _STARTS if head.startswith(start)), "")


def _judge(head: bytes, content_type: str) -> None:
    """Refuse what is no image as soon as its first bytes are there."""
    if suffix_of(head):
        return
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("text/") or head.lstrip()[:1] == b"<":
        raise Failure("the address gives a web page or text instead of an image", Hope.NONE)
    raise Failure("the file is no image, or of a kind that is not read", Hope.NONE)


@dataclass(frozen=True, slots=True)
class _Job:
    url: str
    attempt: int = 0

    @property
    def host(self) -> str:
        try:
            return urlsplit(self.url).hostname or ""
        except ValueError:
            return ""


class _Schedule:
    """Which address is asked for next: hosts that ask for patience rest, and hosts that are silent are given up."""

    def __init__(self, urls: Iterable[str], limits: Limits) -> None:
        self._fresh = iter(urls)
        self._limits = limits
        self._waiting: list[tuple[float, int, _Job]] = []
        self._resting: dict[str, float] = {}
        self._silent = Counter[str]()
        self._turn = 0

    def next(self) -> _Job | None:
        """An address to ask for now; nothing when all are done, or when all that are left have to wait."""
        while (job := self._candidate()) is not None:
            rest = self._resting.get(job.host, 0.0)
            if rest <= time.monotonic():
                return job
            self._wait_until(rest, job)
        return None

    @property
    def pause(self) -> float | None:
        """Seconds until an address that waits can be asked for; nothing when none waits."""
        return max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None

    def gives_up(self, job: _Job) -> bool:
        """Whether the host of an address was silent too often to be asked once more."""
        return self._silent[job.host] >= _SILENCE

    def answered(self, job: _Job) -> None:
        """The host of an address is there."""
        self._silent.pop(job.host, None)

    def tries_again(self, job: _Job, failure: Failure) -> bool:
        """Take an address in once more, when that makes sense."""
        is_last = failure.hope is not Hope.NOW or job.attempt + 1 >= self._limits.attempts
        if failure.is_silent and is_last:
            self._silent[job.host] += 1
        if is_last:
            return False
        due = time.monotonic() + max(failure.wait, self._backoff(job))
        if failure.wait or failure.is_silent:
            self._resting[job.host] = due
        self._wait_until(due, replace(job, attempt=job.attempt + 1))
        return True

    def _candidate(self) -> _Job | None:
        if self._waiting and self._waiting[0][0] <= time.monotonic():
            return heapq.heappop(self._waiting)[2]
        if len(self._waiting) >= _MOST_WAITING:
            return None
        url = next(self._fresh, None)
        return None if url is None else _Job(url)

    def _wait_until(self, due: float, job: _Job) -> None:
        self._turn += 1
        heapq.heappush(self._waiting, (due, self._turn, job))

    def _backoff(self, job: _Job) -> float:
        """Longer with each attempt, and different for each address, so that they do not all come back at once."""
        chance = derive(0, "download", job.url, job.attempt) / 2**63
        return float(self._limits.backoff * 2**job.attempt * (0.5 + chance))


def _worked_off(
    schedule: _Schedule, start: Callable[[str], Future[Failure | None]], workers: int
) -> Iterator[tuple[str, Failure | None]]:
    """Keep all workers busy until nothing is left."""
    running: dict[Future[Failure | None], _Job] = {}
    while True:
        while len(running) < 2 * workers and (job := schedule.next()) is not None:
            if schedule.gives_up(job):
                yield job.url, Failure("the host did not answer several times", Hope.NEXT_RUN, is_silent=True)
            else:
                running[start(job.url)] = job
        if not running and schedule.pause is None:
            return
        for future in _finished(running, schedule.pause if len(running) < 2 * workers else None):
            yield from _settled(running.pop(future), future.result(), schedule)


def _finished(running: Collection[Future[Failure | None]], seconds: float | None) -> Iterable[Future[Failure | None]]:
    """What is done by the time that something else can be started."""
    if running:
        return wait(running, timeout=seconds, return_when=FIRST_COMPLETED).done
    time.sleep(seconds or 0.0)
    return ()


def _settled(job: _Job, failure: Failure | None, schedule: _Schedule) -> Iterator[tuple[str, Failure | None]]:
    if failure is None or not failure.is_silent:
        schedule.answered(job)
    if failure is None or not schedule.tries_again(job, failure):
        yield job.url, failure


class _Gone:
    """The addresses that will never give an image, kept in the store beside the images."""

    KEY = "gone.json"

    def __init__(self, entries: dict[str, tuple[str, int]]) -> None:
        self._entries = entries
        self._unsaved = 0

    @classmethod
    def load(cls, store: Store) -> _Gone:
        """What is remembered; nothing when the file is not there or is not ours."""
        try:
            saved = json.loads(store.read(cls.KEY))
            return cls({str(name): (str(reason), int(limit)) for name, (reason, limit) in saved["gone"].items()})
        except (KeyError, ValueError, TypeError, AttributeError):
            return cls({})

    def reason(self, name: str, limits: Limits) -> str:
        """Why an address is not asked for; empty when it should be, also because larger files are taken now."""
        reason, limit = self._entries.get(name, ("", 0))
        return "" if limit and limits.max_bytes > limit else reason

    def note(self, name: str, failure: Failure, store: Store) -> None:
        """Remember an address if it is gone for good; what is noted is saved now and then."""
        if failure.hope is Hope.NONE:
            self._entries[name] = (failure.reason, failure.limit)
            self._unsaved += 1
        if self._unsaved >= _SAVE_EVERY:
            self.save(store)

    def save(self, store: Store) -> None:
        """Write what is new, together with what another process may have written meanwhile."""
        if self._unsaved:
            self._entries = {**_Gone.load(store)._entries, **self._entries}
            text = json.dumps({"gone": dict(sorted(self._entries.items()))}, indent=0, ensure_ascii=False)
            store.write(self.KEY, text.encode())
            self._unsaved = 0


_STARTS = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"II+\0", ".tif"),
    (b"MM\0+", ".tif"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", ".jp2"),
    (b"\xff\x4f\xff\x51", ".j2k"),
    (b"qoif", ".qoi"),
    *((b"P%d" % kind, suffix) for kind, suffix in enumerate((".pbm", ".pgm", ".ppm", ".pbm", ".pgm", ".ppm"), 1)),
)
"""How files of the kinds that are read begin."""

_SUFFIXES = {".avif", ".webp", *(suffix for _, suffix in _STARTS)}

_SILENCE = 3
"""So many addresses of a host failed for good, one after another, without any sign of it."""

_MOST_WAITING = 10_000
_SAVE_EVERY = 2000
_HEAD = 32
