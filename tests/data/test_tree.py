"""What lies in folders of classes beside images: passed over, counted, and no class."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spimm.data import load_data
from spimm.data.decode import suffixes
from spimm.data.tree import _tell, labelled_files


def same_as_torchvision(root: Path) -> list[str]:
    from torchvision.datasets import ImageFolder

    return [path for path, _ in ImageFolder(str(root)).samples]


def test_files_come_in_the_order_of_torchvision(image_folder) -> None:
    root = image_folder() / "train"
    for place in ("cat/b/c", "cat/a", "dog/1"):
        (root / place).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(root / place / "x.PNG")
    listed = labelled_files(root, suffixes())
    assert [path for files in listed.values() for path in files] == same_as_torchvision(root)


def test_what_systems_add_is_no_class_and_no_image(image_folder, caplog) -> None:
    root = image_folder()
    before = load_data(f"folder:{root}", image_size=8)
    for folder in (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".hidden"):
        for place in (root, root / "train", root / "train" / "cat"):
            (place / folder).mkdir()
            Image.new("RGB", (4, 4)).save(place / folder / "a.png")
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "notes.txt", "1.TXT", "movie.mp4"):
        (root / "train" / "dog" / name).write_bytes(b"x")
    (root / "train" / "labels.csv").write_text("x")
    (root / "train" / "dog" / "gone.png").symlink_to(root / "nowhere.png")
    _tell.cache_clear()
    with caplog.at_level(logging.WARNING):
        data = load_data(f"folder:{root}", image_size=8)
        load_data(f"folder:{root}", image_size=8)
    assert data.class_names == before.class_names == ("cat", "dog")
    assert data.train.images.paths == before.train.images.paths
    said = [record.getMessage() for record in caplog.records]
    counted = "11 hidden or of the system, 2 .txt, 1 .mp4, 1 beside the class folders, 1 others"
    assert said == [f"{root / 'train'}: files passed over: {counted}"]


def test_links_that_lead_in_circles_end(image_folder, caplog) -> None:
    root = image_folder()
    before = load_data(f"folder:{root}", image_size=8)
    (root / "train" / "cat" / "round").symlink_to(root / "train" / "cat")
    (root / "train" / "cat" / "self").symlink_to(root / "train" / "cat" / "self")
    (root / "more").mkdir()
    Image.new("RGB", (4, 4)).save(root / "more" / "z.png")
    (root / "more" / "up").symlink_to(root / "train" / "dog")
    (root / "train" / "dog" / "linked").symlink_to(root / "more")
    data = load_data(f"folder:{root}", image_size=8)
    added = str(root / "train" / "dog" / "linked" / "z.png")
    assert set(data.train.images.paths) == {*before.train.images.paths, added}


@pytest.mark.parametrize("suffix", [".gif", ".jfif", ".webp", ".tif", ".JPEG", ".pbm"])
def test_images_of_other_suffixes_are_read(suffix: str, image_folder) -> None:
    root = image_folder()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "train" / "cat" / "z.png")
    (root / "train" / "cat" / "z.png").rename(root / "train" / "cat" / f"z{suffix}")
    assert len(load_data(f"folder:{root}", image_size=8).train) == 7


def test_a_class_without_an_image_is_named_with_the_suffixes(image_folder) -> None:
    root = image_folder()
    (root / "train" / "cow").mkdir()
    (root / "train" / "cow" / "a.mp4").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=r"images in every class folder, got none in cow; their names end"):
        load_data(f"folder:{root}")


def test_event_files_and_har_dvs_pass_the_same_over(tmp_path: Path) -> None:
    from spimm.data.event_sets import recordings
    from spimm.data.har_dvs import _listed

    for part in ("train", "val", "test"):
        for name in ("left", "right"):
            (tmp_path / part / name / "one").mkdir(parents=True)
            for file in ("a.bin", "._a.bin", "one/1.png", "one/._1.png"):
                (tmp_path / part / name / file).write_bytes(b"x")
            (tmp_path / part / name / ".cache").mkdir()
        for junk in ("@eaDir", ".ipynb_checkpoints"):
            (tmp_path / part / junk / "x").mkdir(parents=True)
            (tmp_path / part / junk / "a.bin").write_bytes(b"x")
    files = recordings(tmp_path)
    assert files.class_names == ("left", "right")
    assert [item.path.name for item in files.train] == ["a.bin", "a.bin"]
    classes, listed = _listed(tmp_path)
    assert classes == ("left", "right")
    assert [[path.name for path in item.paths] for item in listed["test"]] == [["1.png"], ["1.png"]]
