"""Image sets from small files made here: layouts, damage, interrupted downloads. No network."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from retro_diffusion.data.torchvision_sets import load

MIRRORS = ["http://first.invalid/", "http://second.invalid/"]


def idx(values: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return header + values.tobytes()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Small stand-ins for the four archives of MNIST, whose checksums replace the published ones."""
    rng = np.random.default_rng(0)
    contents = {}
    for prefix, n in (("train", 7), ("t10k", 5)):
        pixels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        pixels[0, 0, :2] = 0, 255
        labels = (np.arange(n) % 10).astype(np.uint8)
        contents[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(idx(pixels))
        contents[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(idx(labels))
    resources = [(name, md5(data)) for name, data in contents.items()]
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    monkeypatch.setattr(datasets.MNIST, "mirrors", MIRRORS)
    return contents


class Server:
    """Answers ``urlopen`` from memory; each URL may have its own answer."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, url: str, timeout: float) -> io.BytesIO:
        self.asked.append(url)
        if url not in self.answers:
            raise ConnectionRefusedError("refused")
        return io.BytesIO(self.answers[url])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    fake = Server({})
    monkeypatch.setattr("urllib.request.urlopen", fake)
    return fake


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def tree(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("where", ["MNIST/raw", "."])
def test_archives_are_read_in_place(tmp_path: Path, files: dict[str, bytes], where: str) -> None:
    write(tmp_path / where, files)
    before = tree(tmp_path)
    x, y = load("mnist", tmp_path)
    assert x.shape == (7, 1, 28, 28) and x.dtype == torch.float32
    assert x[0, 0, 0, :2].tolist() == [-1, 1] and y.tolist() == list(range(7))
    assert load("mnist", tmp_path, train=False).x.shape == (5, 1, 28, 28)
    assert load("mnist", tmp_path, n=3).y.tolist() == [0, 1, 2]
    assert tree(tmp_path) == before, "nothing is extracted"


def test_half_of_the_files_and_extracted_files_suffice(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    plain = {k[:-3]: gzip.decompress(v) for k, v in files.items() if k.startswith("t10k")}
    write(tmp_path / "MNIST/raw", plain)
    assert load("mnist", tmp_path, train=False).x.shape == (5, 1, 28, 28)
    with pytest.raises(FileNotFoundError, match="train-images.*download=True"):
        load("mnist", tmp_path)
    name = "t10k-images-idx3-ubyte"
    write(tmp_path / "MNIST/raw", {name: plain[name][:-100]})
    with pytest.raises(OSError, match="t10k-images-idx3-ubyte is damaged: its length"):
        load("mnist", tmp_path, train=False)
    write(tmp_path / "MNIST/raw", {name: b"<html>"})
    with pytest.raises(OSError, match="t10k-images-idx3-ubyte is damaged: it is not an IDX file"):
        load("mnist", tmp_path, train=False)


def test_root_from_the_environment(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "MNIST/raw", files)
    monkeypatch.setenv("RETRO_DIFFUSION_DATA", str(tmp_path))
    assert len(load("mnist").y) == 7
    monkeypatch.delenv("RETRO_DIFFUSION_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / ".cache/retro-diffusion/MNIST/raw", files)
    assert len(load("mnist").y) == 7


def test_damage_is_reported_then_repaired(
    tmp_path: Path, files: dict[str, bytes], server: Server
) -> None:
    name = "train-images-idx3-ubyte.gz"
    write(tmp_path / "MNIST/raw", files | {name: files[name][:500]})
    with pytest.raises(OSError, match="train-images.*is damaged.*download=True"):
        load("mnist", tmp_path)
    server.answers = {MIRRORS[0] + name: files[name]}
    assert len(load("mnist", tmp_path, download=True).y) == 7
    assert server.asked == [MIRRORS[0] + name], "intact files are not fetched again"
    assert (tmp_path / "MNIST/raw" / name).read_bytes() == files[name]


def test_truncated_download_leaves_nothing_and_the_next_mirror_is_tried(
    tmp_path: Path, files: dict[str, bytes], server: Server
) -> None:
    server.answers = {MIRRORS[0] + name: data[:-10] for name, data in files.items()}
    with pytest.raises(ConnectionError, match=r"no intact copy.*bytes came.*second.*refused"):
        load("mnist", tmp_path, download=True)
    assert tree(tmp_path) == []
    server.answers |= {MIRRORS[1] + name: data for name, data in files.items()}
    assert len(load("mnist", tmp_path, download=True).y) == 7
    assert tree(tmp_path) == [f"MNIST/raw/{name}" for name in sorted(files) if "train" in name]


def test_interrupted_download_leaves_nothing(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise KeyboardInterrupt

    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: Interrupted())
    with pytest.raises(KeyboardInterrupt):
        load("mnist", tmp_path, download=True)
    assert tree(tmp_path) == []


def test_no_place_to_write(
    tmp_path: Path, files: dict[str, bytes], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(PermissionError, match="cannot write to .*RETRO_DIFFUSION_DATA"):
        load("mnist", tmp_path / "file", download=True)

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(PermissionError, match="cannot write to .*Permission denied.*root="):
        load("mnist", tmp_path, download=True)
    assert server.asked == []


def test_bad_names_and_counts(tmp_path: Path, files: dict[str, bytes]) -> None:
    write(tmp_path, files)
    with pytest.raises(ValueError, match="unknown data set 'imagenet'.*mnist.*cifar10"):
        load("imagenet", tmp_path)
    for n in (0, 8):
        with pytest.raises(ValueError, match=f"between 1 and the 7 images of mnist, got {n}"):
            load("mnist", tmp_path, n=n)


def test_fashion_mnist_has_a_folder_of_its_own(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.FashionMNIST, "resources", datasets.MNIST.resources)
    write(tmp_path / "FashionMNIST/raw", files)
    assert len(load("fashion-mnist", tmp_path).y) == 7


def test_labels_and_images_must_agree(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "train-labels-idx1-ubyte.gz"
    changed = files | {name: gzip.compress(idx(np.zeros(6, np.uint8)))}
    monkeypatch.setattr(
        datasets.MNIST, "resources", [(name, md5(data)) for name, data in changed.items()]
    )
    write(tmp_path, changed)
    with pytest.raises(OSError, match=r"disagree: shapes \(7, 28, 28\) and \(6,\)"):
        load("mnist", tmp_path)


@pytest.fixture
def cifar(monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, bytes], bytes]:
    rng = np.random.default_rng(0)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    batches = {
        name: pickle.dumps(
            {"data": rng.integers(0, 256, (2, 3072), dtype=np.uint8), "labels": [i, i + 1]}
        )
        for i, name in enumerate(names)
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in batches.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    sums = [[name, md5(data)] for name, data in batches.items()]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", sums[5:])
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(buffer.getvalue()))
    return batches, buffer.getvalue()


def test_cifar10_archive_and_folder_agree(
    tmp_path: Path, cifar: tuple[dict[str, bytes], bytes], server: Server
) -> None:
    batches, archive = cifar
    server.answers = {datasets.CIFAR10.url: archive}
    with pytest.raises(FileNotFoundError, match="cifar-10-python.tar.gz"):
        load("cifar10", tmp_path)
    x, y = load("cifar10", tmp_path, download=True)
    assert x.shape == (10, 3, 32, 32) and y.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert tree(tmp_path) == ["cifar-10-python.tar.gz"]
    write(tmp_path / "extracted/cifar-10-batches-py", batches)
    assert torch.equal(load("cifar10", tmp_path / "extracted").x, x)
    assert load("cifar10", tmp_path / "extracted", train=False).y.tolist() == [5, 6]


def test_cifar10_never_unpickles_a_file_of_unknown_content(
    tmp_path: Path, cifar: tuple[dict[str, bytes], bytes]
) -> None:
    batches, _ = cifar
    folder = tmp_path / "cifar-10-batches-py"
    write(folder, batches | {"data_batch_3": pickle.dumps({"data": [], "labels": []})})
    with pytest.raises(OSError, match="data_batch_3 is damaged"):
        load("cifar10", tmp_path)
