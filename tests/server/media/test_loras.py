"""The server finds the LoRAs that a request names, downloads each once, checks it against the model, or refuses it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.models import describe
from pipelines.request import Lora, RequestError, Task
from server.datadir import DataDir
from server.errors import DiskFull, MediaError
from server.media.addresses import is_public
from server.media.artifacts import Artifacts
from server.media.inspectors import Inspectors
from server.media.loras import Loras
from server.media.outbound import Outbound
from server.media.retention import LORA_SECONDS, Retention
from server.media.uploads import Uploads
from tests.rigs import checkpoints, hub
from tests.rigs.house import plain
from tests.rigs.lora_host import Host, hosted, lora, lora_file, tensors


@dataclass
class Place:
    tmp: Path
    data: DataDir
    artifacts: Artifacts

    def take(
        self, *values: str, private: bool = True, fresh: bool = False, task: Task = Task.T2V, **given: Any
    ) -> list[Lora]:
        """Resolves all values at once in a new event loop."""

        async def run() -> list[Lora]:
            settings = plain(data_dir=self.tmp / "data", loras_dir=self.tmp / "styles", **given)
            outbound = Outbound((lambda _: True) if private else is_public, seconds=2.0)
            models = {Task.T2V: describe(checkpoints.cached("5b"), "5b")}
            inspectors = Inspectors()
            there = Loras(settings, models, self.data, self.artifacts, outbound, inspectors)
            try:
                found = await asyncio.gather(*(there.take(v, 0.5, task, fresh=fresh) for v in values))
            finally:
                await outbound.close()
                await inspectors.close()
            return list(found)

        return asyncio.run(run())

    def refused(self, value: str, match: str, code: str | None = None, **given: Any) -> None:
        kind: Any = RequestError if code is None else MediaError
        with pytest.raises(kind) as e:
            self.take(value, **given)
        assert e.value.field == "loras"
        assert match in e.value.message, e.value.message
        assert str(self.tmp) not in e.value.message
        assert code is None or e.value.code == code
        left = [p.name for p in self.data.loras.iterdir() if p.name.startswith(".")]
        assert left == []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    data = DataDir(tmp_path / "data")
    yield Place(tmp_path, data, Artifacts(data))
    data.close()


@pytest.fixture
def host() -> Iterator[Host]:
    with hosted() as running:
        yield running


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_an_address_is_fetched_once_and_again_when_asked(place: Place, host: Host) -> None:
    digest = sha256(lora())
    first, again = place.take(host.url()), place.take(host.url())
    assert first == again == [Lora(str(place.data.loras / f"{digest}.safetensors"), 0.5, digest)]
    assert Path(first[0].path).read_bytes() == lora()
    assert host.asked == ["/style.safetensors"]
    host.files["/style.safetensors"] = lora(seed=1)
    assert place.take(host.url()) == first
    (other,) = place.take(host.url(), fresh=True)
    assert other.sha256 == sha256(lora(seed=1))
    assert place.take(host.url()) == [other]
    assert len(host.asked) == 2
    place.take(*[host.url("/style.safetensors?token=1")] * 5)
    assert len(host.asked) == 3, "five at once share one download"
    assert len(list(place.data.loras.glob("*.safetensors"))) == 2


def test_a_pin_is_believed_and_held(place: Place, host: Host) -> None:
    digest, other = sha256(lora()), sha256(lora(seed=1))
    (pinned,) = place.take(f"{host.url()}#sha256={digest.upper()}")
    assert pinned.sha256 == digest
    asked = len(host.asked)
    place.take(f"{host.url('/another')}#sha256={digest}")
    assert len(host.asked) == asked, "the file is already here, whatever its URL"
    place.refused(f"{host.url()}#sha256={other}", f"the SHA-256 of what came is {digest}, asked for was {other}")
    host.files["/style.safetensors"] = lora(seed=1)
    assert place.take(f"{host.url()}#sha256={other}")[0].sha256 == other
    place.refused(f"{host.url()}#sha256=12", "64 hexadecimal digits")
    lora_file(place.tmp / "styles" / "style.safetensors")
    assert place.take(f"style#sha256={digest}")[0].sha256 == digest
    place.refused(f"style#sha256={other}", f"its SHA-256 is {digest}")


@pytest.mark.parametrize("pinned", [False, True])
def test_a_kept_file_that_is_another_by_now_is_fetched_again(place: Place, host: Host, pinned: bool) -> None:
    url = f"{host.url()}#sha256={sha256(lora())}" if pinned else host.url()
    (taken,) = place.take(url)
    Path(taken.path).write_bytes(lora(seed=1))
    assert place.take(url) == [taken]
    assert Path(taken.path).read_bytes() == lora()
    assert len(host.asked) == 2
    Path(taken.path).write_bytes(lora(seed=1))
    del host.files["/style.safetensors"]
    place.refused(url, "the host answered 404", "file_download_error")


@pytest.mark.parametrize(
    ("path", "match", "code"),
    [
        ("/html", "a web page came, no LoRA", None),
        ("/torn.safetensors", "cannot be read: torn", None),
        ("/empty", "cannot be read", None),
        ("/style.zip", "an archive (.zip) came, no LoRA; give the file that is in it", None),
        ("/style.gguf", "a GGUF file came, no LoRA", None),
        ("/wide.safetensors", "64 -> 64 channels, the transformer has 32 -> 32", None),
        ("/absent", "the host answered 404", "file_download_error"),
        ("/large", "larger than 2 MiB", "file_too_large"),
    ],
)
def test_what_comes_must_be_a_lora_for_this_model(
    place: Place, host: Host, path: str, match: str, code: str | None
) -> None:
    place.refused(host.url(path), match, code, max_lora_mb=2)
    place.refused(host.url(path), match, code, max_lora_mb=2)


def test_addresses_that_are_not_gone_to(place: Place, host: Host) -> None:
    place.refused(host.url(), "not public", "file_download_error", private=False)
    for url in ("http://169.254.169.254/latest", "http://[::1]/a", "http://10.0.0.1/a", "http://0.0.0.0/a"):
        place.refused(url, "not public", "file_download_error", private=False)
    for url in ("file:///etc/passwd", "ftp://example.org/a"):
        place.refused(url, "only http and https", "file_download_error")
    place.refused("http://[", "", "file_download_error")
    place.refused(host.url(), "not fetched from addresses here", max_lora_mb=0)
    assert host.asked == []


def test_pickles_are_taken_only_where_the_owner_insists_and_never_their_code(place: Place, host: Host) -> None:
    ran = place.tmp / "ran"

    class Hostile:
        def __reduce__(self) -> object:
            return (Path.touch, (ran,))

    for name, content in (("/plain.pt", tensors()), ("/code.pt", {"a": Hostile()})):
        data = io.BytesIO()
        torch.save(content, data)
        host.files[name] = data.getvalue()
        place.refused(host.url(name), "it is a pickle")
    (taken,) = place.take(host.url("/plain.pt"), lora_pickle=True)
    assert taken.path.endswith(f"{taken.sha256}.safetensors")
    assert place.take(host.url("/plain.pt"), lora_pickle=True) == [taken]
    place.refused(host.url("/code.pt"), "not a pickle of plain tensors", lora_pickle=True)
    assert not ran.exists()


def test_a_data_uri(place: Place) -> None:
    def uri(data: bytes) -> str:
        return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"

    (taken,) = place.take(uri(lora()))
    assert taken.sha256 == sha256(lora())
    place.refused(uri(lora(width=64)), "64 -> 64 channels")
    place.refused(uri(b"nothing"), "cannot be read")
    place.refused("data:;base64,???", "base64", "file_download_error")
    place.refused("data:nothing", "no comma", "file_download_error")
    place.refused(uri(bytes(2 * 2**20)), "larger than 1 MiB", "file_too_large", max_lora_mb=1)


def test_an_uploaded_file_is_read_from_disk(place: Place) -> None:
    kept = place.artifacts.put("style.safetensors", "application/octet-stream", lora())
    url = place.artifacts.url(kept, "https://elsewhere.example")
    assert place.take(url, private=False)[0].sha256 == sha256(lora())
    gone = place.artifacts.put("other.safetensors", "application/octet-stream", lora(seed=1))
    place.artifacts.remove(gone)
    place.refused(place.artifacts.url(gone, "http://127.0.0.1:9"), "", "file_download_error")


def test_names_of_the_folder(place: Place) -> None:
    styles = place.tmp / "styles"
    flat = lora_file(styles / "flat.safetensors")
    own = lora_file(styles / "mine" / "anything.safetensors", seed=1)
    hub = lora_file(styles / "owner" / "name" / "pytorch_lora_weights.safetensors", seed=2)
    several = [lora_file(styles / "owner" / "two" / f"{n}.safetensors", seed=n) for n in (3, 4)]
    for name, path in (
        ("flat", flat),
        ("flat.safetensors", flat),
        (" mine ", own),
        ("owner/name", hub),
        ("owner/name/pytorch_lora_weights.safetensors", hub),
        ("owner/two/3", several[0]),
    ):
        assert place.take(name) == [Lora(str(path), 0.5)]
    assert place.take("flat#alpha=2") == [Lora(str(flat), 0.5, None, 2.0)]
    place.refused("owner/two", "contains several LoRAs; choose one of them: owner/two/3.safetensors")
    place.refused("another", "no LoRA 'another' is installed here; there are: flat, mine, owner/name, owner/two/3")
    place.refused("some/one", "`cogvideox lora add some/one` fetches it from the hub")
    for name in ("../flat", "/etc/passwd", "a/../../b", "..", ".hidden", "a//b", "", "a\x00b", "x" * 9000, "ü", "a b"):
        place.refused(name, "")
    assert place.take("flat#alpha=1e%2B2") == [Lora(str(flat), 0.5, None, 100.0)]
    for alpha in ("nan", "-1", "0", "x", "1e9", "", "2#sha256=0"):
        place.refused(f"flat#alpha={alpha}", f"#alpha must be a number above 0, at most 1000000, got '{alpha}'")
    for said in ("alfa=2", "ALPHA=2", "alpha=1&alpha=2", "alpha", "readme"):
        wrong = "alpha=2" if "&" in said else said
        place.refused(f"flat#{said}", "" if said == "alpha" else f"each once; got '{wrong}'")
    place.refused("flat#sha256=abc", "#sha256 must be 64 hexadecimal digits")
    assert place.take("flat", task=Task.I2V), "without a model for the task, only the submission of the job reports it"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub.Hub]:
    """Runs a local hub, every repository of which contains the files of the folder `published`."""
    lora_file(tmp_path / "published" / "style.safetensors")
    (tmp_path / "published" / "adapter_config.json").write_text('{"lora_alpha": 4}')
    with hub.serving(tmp_path / "published") as server:
        given = {"ENDPOINT": server.url, "HUB_DISABLE_XET": "1", "HUB_OFFLINE": "0", "HOME": str(tmp_path / "cache")}
        for name, value in given.items():
            monkeypatch.setenv(f"HF_{name}", value)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


def test_the_hub_is_asked_only_where_the_owner_allows(place: Place, repository: hub.Hub) -> None:
    place.refused("some/style", "no LoRA 'some/style' is installed")
    (place.tmp / "styles").write_text("where a folder should be")
    place.refused("some/style", "could not be fetched from the hub", "file_download_error", lora_pull=True)
    (place.tmp / "styles").unlink()
    assert repository.served == []
    home = place.tmp / "styles" / "some" / "style"
    taken = Lora(str(home / "style.safetensors"), 0.5)
    assert place.take("some/style", "some/style", lora_pull=True) == [taken, taken]
    assert place.take("some/style", lora_pull=True) == [taken]
    assert sorted(repository.served) == ["adapter_config.json", "style.safetensors"]
    assert {path.name for path in home.iterdir()} == {*repository.served, "style.safetensors.json"}
    repository.status, repository.error_code = 404, "RepoNotFound"
    place.refused("gone/away", "gone/away could not be fetched from the hub", "file_download_error", lora_pull=True)


def test_an_address_of_the_hub_is_a_name(place: Place, repository: hub.Hub) -> None:
    address = "https://huggingface.co/some/style/resolve/main/style.safetensors"
    place.refused(
        f"{address}?download=true", "`cogvideox lora add some/style/style.safetensors` fetches it from the hub"
    )
    assert repository.served == []
    home = place.tmp / "styles" / "some"
    file = lora_file(home / "style" / "style.safetensors")
    for other in ("huggingface.co", "hf.co"):
        for page in ("resolve", "blob"):
            (found,) = place.take(f"https://{other}/some/style/{page}/main/style.safetensors#alpha=4")
            assert found == Lora(str(file), 0.5, None, 4.0)
    place.refused(address.replace("main", "v2"), "no LoRA 'some/style@v2/style.safetensors' is installed here")
    place.refused(address.replace("main", "refs%2Fpr%2F1"), "'refs/pr/1' is not a supported revision")
    (pulled,) = place.take(address.replace("main", "v2"), lora_pull=True)
    assert Path(pulled.path) == home / "style@v2" / "style.safetensors"
    assert "style.safetensors" in repository.served
    served = len(repository.served)
    assert place.take(address.replace("main", "v2"), lora_pull=True) == [pulled]
    assert len(repository.served) == served, "it is already installed"


def test_what_the_hub_gives_is_installed_only_when_it_is_known_to_fit(place: Place, repository: hub.Hub) -> None:
    file = lora_file(repository.folder / "style.safetensors", width=64)
    place.refused("some/style", "64 -> 64 channels, the transformer has 32", lora_pull=True)
    file.write_bytes(lora()[:-50])
    place.refused("some/style", "cannot be read: torn", lora_pull=True)
    file.write_bytes(lora())
    place.refused(f"some/style#sha256={'0' * 64}", "asked for was 000", lora_pull=True)
    lora_file(repository.folder / "other.safetensors", seed=1)
    place.refused("some/style", "choose one of them: some/style/other.safetensors", lora_pull=True)
    assert list((place.tmp / "styles").rglob("*")) == []


def test_a_slow_hub_is_left_in_time(place: Place, repository: hub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server gives up a slow download in time and leaves no partial file, and the next request succeeds."""
    repository.drips = 0.05
    with monkeypatch.context() as patched:
        patched.setattr("server.media.loras.SECONDS", 4.0)
        within = "some/style could not be fetched from the hub within 4 seconds"
        began = time.monotonic()
        place.refused("some/style", within, "file_download_error", lora_pull=True)
        assert time.monotonic() - began < 0.05 * len(lora()) / 2
    assert list((place.tmp / "styles").rglob("*")) == []
    repository.drips = 0
    assert place.take("some/style", lora_pull=True)


def test_a_full_disk_is_said(place: Place, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    place.data.min_free_bytes = 2**60
    with pytest.raises(DiskFull):
        place.take(host.url())
    assert host.asked == []


def test_fetched_files_go_when_nobody_asked_for_them_for_a_month(place: Place, host: Host) -> None:
    (kept,) = place.take(host.url())
    now = time.time()

    def sweep(later: float, in_use: Callable[[], set[str]] = set) -> bool:
        uploads = Uploads(place.data, place.artifacts)
        from server.media.artifacts import NO_LIMITS

        Retention(place.data, place.artifacts, uploads, in_use, NO_LIMITS, lambda: now + later).sweep()
        return Path(kept.path).exists()

    assert sweep(LORA_SECONDS - 60)
    assert sweep(LORA_SECONDS + 60, lambda: {str(kept.sha256)})
    os.utime(kept.path, (now + 600, now + 600))  # a request that names the LoRA also sets the file's time
    assert sweep(LORA_SECONDS + 60)
    assert not sweep(LORA_SECONDS + 700)
    assert place.take(host.url()) == [kept]
