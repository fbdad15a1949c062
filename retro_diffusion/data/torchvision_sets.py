"""MNIST, Fashion-MNIST and CIFAR-10 in torchvision's own folder layout, read defensively.

Published archives are read as they are, without extraction, and only after their MD5 sums agree with
those that torchvision publishes. A download is checked in a temporary file and then moved in place, so
that an interrupted one leaves nothing behind that could be taken for data.
"""

import gzip
import hashlib
import http.client
import io
import os
import pickle
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torchvision import datasets

from retro_diffusion.data.images import Images, check_image_range

ROOT_VARIABLE = "RETRO_DIFFUSION_DATA"
DEFAULT_ROOT = "~/.cache/retro-diffusion"


def load(
    name: str,
    root: str | Path | None = None,
    *,
    train: bool = True,
    download: bool = False,
    n: int | None = None,
) -> Images:
    """Load one of torchvision's small image sets into memory.

    Only the files of the requested half are needed: with the test files alone, ``train=False`` works.
    Nothing is written unless something has to be downloaded, so a read-only root will do.

    Parameters
    ----------
    name : str
        A key of `DATASETS`.
    root : path, optional
        Folder that holds ``MNIST/raw``, ``FashionMNIST/raw`` or ``cifar-10-batches-py`` as torchvision
        lays them out, or the files themselves, compressed or not. If omitted, the environment variable
        ``RETRO_DIFFUSION_DATA``, else ``~/.cache/retro-diffusion``.
    train : bool
        Whether to load the training half or the test half.
    download : bool
        Whether to fetch files that are absent or damaged.
    n : int, optional
        Keep the first ``n`` images only.

    Returns
    -------
    Images
        ``x`` in [-1, 1] of shape (N, 1, 28, 28) or (N, 3, 32, 32), and ``y`` in 0 ... 9.

    Raises
    ------
    ValueError
        If the set is unknown or has fewer than ``n`` images.
    FileNotFoundError
        If files are absent and ``download`` is false.
    OSError
        If files are damaged and ``download`` is false.
    ConnectionError
        If no mirror delivers an intact file.
    PermissionError
        If a download has nowhere to be written to.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; choose one of {', '.join(DATASETS)}")
    folder = Path(root or os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT).expanduser()
    pixels, labels = DATASETS[name](folder, train, download)
    if n is not None and not 1 <= n <= len(labels):
        raise ValueError(f"n must lie between 1 and the {len(labels)} images of {name}, got {n}")
    x = torch.from_numpy(pixels[:n].astype(np.float32)) / 127.5 - 1
    return Images(check_image_range(x), torch.from_numpy(labels[:n].astype(np.int64)))


def _load_mnist(root: Path, train: bool, download: bool) -> tuple[np.ndarray, np.ndarray]:
    return _load_idx(datasets.MNIST, root, train, download)


def _load_fashion_mnist(root: Path, train: bool, download: bool) -> tuple[np.ndarray, np.ndarray]:
    return _load_idx(datasets.FashionMNIST, root, train, download)


def _load_idx(
    dataset: type[datasets.MNIST], root: Path, train: bool, download: bool
) -> tuple[np.ndarray, np.ndarray]:
    prefix = "train-" if train else "t10k-"
    raw = Path(dataset.__name__) / "raw"
    arrays = []
    for filename, md5 in (pair for pair in dataset.resources if pair[0].startswith(prefix)):
        urls = [mirror + filename for mirror in dataset.mirrors]
        places = [(raw / filename, md5), (Path(filename), md5)]
        path = _find(root, places)
        if path is None:
            plain = _read_plain_idx(root, raw, filename.removesuffix(".gz"), download)
            if plain is not None:
                arrays.append(plain)
                continue
            path = _obtain(root, places, urls, download)
        arrays.append(_parse_idx(gzip.decompress(path.read_bytes()), path))
    images, labels = arrays
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise OSError(
            f"the images and labels of {dataset.__name__} in {root} disagree: "
            f"shapes {images.shape} and {labels.shape}"
        )
    return images[:, None], labels


def _read_plain_idx(root: Path, raw: Path, filename: str, download: bool) -> np.ndarray | None:
    """Extracted files have no published checksum; their header tells how long they must be."""
    for path in (root / raw / filename, root / filename):
        if path.is_file():
            try:
                return _parse_idx(path.read_bytes(), path)
            except OSError:
                if not download:
                    raise
    return None


def _parse_idx(data: bytes, path: Path) -> np.ndarray:
    """Read unsigned bytes in the IDX format: 0, 0, type, rank, big-endian sizes, then the values."""
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise OSError(f"{path} is damaged: it is not an IDX file of unsigned bytes")
    start = 4 + 4 * data[3]
    shape = tuple(np.frombuffer(data[4:start], dtype=">u4").tolist())
    if len(shape) != data[3] or len(data) != start + int(np.prod(shape)):
        raise OSError(f"{path} is damaged: its length is not the one in its header")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def _load_cifar10(root: Path, train: bool, download: bool) -> tuple[np.ndarray, np.ndarray]:
    dataset = datasets.CIFAR10
    batches = dataset.train_list if train else dataset.test_list
    folder = Path(dataset.base_folder)
    extracted = [(folder / name, md5) for name, md5 in batches]
    found = [path for place in extracted if (path := _find(root, [place])) is not None]
    if len(found) == len(batches):
        contents = [path.read_bytes() for path in found]
    else:
        archive = (Path(dataset.filename), dataset.tgz_md5)
        path = _find(root, [archive]) or _obtain(
            root, [archive, *extracted], [dataset.url], download
        )
        contents = _members(path, [f"{dataset.base_folder}/{name}" for name, _ in batches])
    # Checksums have been verified: what is unpickled is the published file.
    entries = [pickle.loads(content, encoding="latin1") for content in contents]
    images = np.concatenate([entry["data"] for entry in entries]).reshape(-1, 3, 32, 32)
    return images, np.concatenate([entry["labels"] for entry in entries])


def _members(path: Path, names: list[str]) -> list[bytes]:
    contents = {}
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name in names else None
            if file is not None:
                contents[member.name] = file.read()
    return [contents[name] for name in names]


Loader = Callable[[Path, bool, bool], tuple[np.ndarray, np.ndarray]]

DATASETS: dict[str, Loader] = {
    "mnist": _load_mnist,
    "fashion-mnist": _load_fashion_mnist,
    "cifar10": _load_cifar10,
}


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


Place = tuple[Path, str]  # a path below the root and the checksum of the file it should hold


def _find(root: Path, places: list[Place]) -> Path | None:
    for place, md5 in places:
        path = root / place
        if path.is_file() and _md5(path) == md5:
            return path
    return None


def _obtain(root: Path, places: list[Place], urls: list[str], download: bool) -> Path:
    """Fetch a file to the first of its places, or say why there is none."""
    first, md5 = places[0]
    if download:
        return _download(urls, root / first, md5)
    for place, expected in places:
        path = root / place
        if path.is_file() and _md5(path) != expected:
            raise OSError(
                f"{path} is damaged (its checksum differs from the published one); "
                "pass download=True to fetch it again"
            )
    raise FileNotFoundError(
        f"{first.name} is not in {root}; pass download=True to fetch it, or point root= or the "
        f"environment variable {ROOT_VARIABLE} to the folder that holds it"
    )


def _download(urls: list[str], path: Path, md5: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise PermissionError(
            f"cannot write to {path.parent} ({error.strerror}); pass root= or set {ROOT_VARIABLE} to "
            "a folder that can be written to"
        ) from error
    temporary = Path(name)
    try:
        with open(handle, "w+b") as file:
            _fetch(urls, file, md5)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _fetch(urls: list[str], file: io.BufferedRandom, md5: str) -> None:
    failures = []
    for url in urls:
        file.seek(0)
        file.truncate()
        digest = hashlib.md5(usedforsecurity=False)
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                while block := response.read(1 << 20):
                    digest.update(block)
                    file.write(block)
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{url}: {error}")
            continue
        if digest.hexdigest() == md5:
            return
        failures.append(f"{url}: {file.tell()} bytes came, whose checksum is not the published one")
    raise ConnectionError(f"no intact copy could be downloaded ({'; '.join(failures)})")
