"""VOC's XML files: the same boxes and masks as COCO's JSON of the same images; bad files are counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from syn2co_ray.evaluate.detection.annotations import AnnotatedSet, Findings
from syn2co_ray.evaluate.detection.sets import read_set
from syn2co_ray.evaluate.detection.voc import parse_voc, read_voc
from syn2co_ray.spec.detection import AnnotatedImagesSpec
from syn2co_ray.spec.errors import DataError
from syn2co_ray.spec.source import ObjectStoreSpec

from .drawn import small_detection, voc_xml, write_coco, write_voc

STORE = ObjectStoreSpec()


def as_read(images: AnnotatedImagesSpec, masks: bool = False) -> AnnotatedSet:
    spec = small_detection(images, images, masks=masks)
    return read_set("detection.eval", images, spec, STORE)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_both_formats_of_real_images_give_the_same_boxes(shared_dir: Path, split: str) -> None:
    place = shared_dir / "data/det_bccd"
    images = str(place / "JPEGImages")
    coco = as_read(AnnotatedImagesSpec(annotations=f"{place}/instances_{split}.json", images=images))
    listed = f"{place}/ImageSets/Main/{split}.txt"
    voc = as_read(AnnotatedImagesSpec(annotations=f"{place}/Annotations", images=images, image_set=listed))
    assert voc.images == coco.images
    assert voc.categories == coco.categories == ("Platelets", "RBC", "WBC")
    assert voc.boxes == {"train": 2805, "val": 1138, "test": 945}[split]
    assert voc.fingerprint == coco.fingerprint


def test_both_formats_of_drawn_images_give_the_same_masks(tmp_path: Path) -> None:
    coco = as_read(write_coco(tmp_path / "coco", "all", range(3)), masks=True)
    voc = as_read(write_voc(tmp_path / "voc", range(3)), masks=True)
    assert voc.images == coco.images
    assert all(instance.mask for image in voc.images for instance in image.instances)


def test_an_object_without_a_readable_mask_is_ignored(tmp_path: Path) -> None:
    images = write_voc(tmp_path, range(3))
    (tmp_path / "SegmentationObject/0.png").unlink()
    (tmp_path / "SegmentationObject/1.png").write_bytes(b"\x89PNG\r\n\x1a\nx")
    found = as_read(images, masks=True)
    ignored = [[instance.ignored for instance in image.instances] for image in found.images]
    assert ignored == [[True, True], [True, True], [False, False]]
    assert "4 of 6 boxes have no usable mask and are ignored (first: object 1 of 0.png)" in found.warnings[0]


def test_edges_counted_from_0_are_taken_as_they_are(tmp_path: Path) -> None:
    images = write_voc(tmp_path, range(1)).model_copy(update={"one_based": False})
    devkit = as_read(images.model_copy(update={"one_based": True})).images[0].instances[0].box
    found = as_read(images).images[0].instances[0].box
    assert found == (devkit[0] + 1, devkit[1] + 1, devkit[2], devkit[3])


def test_difficult_objects_are_ignored_but_learned_from(tmp_path: Path) -> None:
    images = write_voc(tmp_path, range(2))
    (tmp_path / "Annotations/0.xml").write_text(voc_xml("0.png", [("disc", (1, 1, 9, 9))], difficult=1))
    (instance,) = as_read(images).images[0].instances
    assert (instance.ignored, instance.crowd) == (True, False)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<annotation>", "is no XML"),
        (b"<annotation><size><width>inf</width><height>3</height></size></annotation>", "does not say"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "declares a document type or entities"),
        (b"<annotation><filename>a.png</filename></annotation>", "does not say the size"),
        (
            b"<annotation><size><width>x</width><height>3</height></size></annotation>",
            "does not say the size",
        ),
    ],
)
def test_a_bad_file_says_what_is_wrong_with_it(data: bytes, words: str) -> None:
    found = parse_voc(data)
    assert isinstance(found, str)
    assert words in found


def test_bad_files_missing_images_and_bad_boxes_are_counted(tmp_path: Path) -> None:
    images = write_voc(tmp_path, range(8))
    (tmp_path / "Annotations/1.xml").write_text("<annotation>")
    (tmp_path / "images/2.png").unlink()
    boxes = [("disc", (5, 5, 4, 9)), ("disc", (200, 1, 300, 9)), ("disc", ("a", 1, 2, 3)), ("", (1, 1, 9, 9))]
    (tmp_path / "Annotations/3.xml").write_text(voc_xml("3.png", [*boxes, ("disc", (80, 1, 99, 9))]))
    (tmp_path / "list.txt").write_text("0\n1 1\n2\n3\n77\n")
    spec = images.model_copy(update={"image_set": f"{tmp_path}/list.txt"})
    files, findings = {path.name for path in (tmp_path / "images").iterdir()}, Findings()
    found, categories = read_voc(spec, STORE, files, False, findings)
    assert [image.file for image in found] == ["0.png", "3.png"]
    assert categories == ["disc", "square"]
    assert findings.images == {
        "are in the image set without an XML file": 1,
        "have an XML file that is no XML (no element found)": 1,
        "have no file in the folder": 1,
    }
    assert findings.boxes == {
        "have no area": 1,
        "are outside of their image": 1,
        "are not four finite numbers": 1,
        "have no name": 1,
    }
    assert findings.changed == {"reach out of their image and are clipped": 1}
    with pytest.raises(DataError, match=r"images cannot be used"):
        as_read(spec)


def test_a_folder_without_annotations_and_a_doubled_image_are_refused(tmp_path: Path) -> None:
    images = write_voc(tmp_path, range(2))
    with pytest.raises(DataError, match=r"no \.xml file"):
        as_read(images.model_copy(update={"annotations": images.images}))
    (tmp_path / "Annotations/1.xml").write_text(voc_xml("0.png", [("disc", (1, 1, 9, 9))]))
    with pytest.raises(DataError, match=r"two XML files of one image: 0\.xml and 1\.xml are both of 0\.png"):
        as_read(images)


def in_two_folders(place: Path) -> AnnotatedImagesSpec:
    """Images 0 and 1 in train/, others of the same names in val/, with XML files and masks likewise."""
    spec = write_voc(place / "train", range(2))
    write_voc(place / "val", range(2, 4))
    for number in (2, 3):
        for file in (place / "val").glob(f"*/{number}.*"):
            file.rename(file.with_stem(str(number - 2)))
        xml = place / f"val/Annotations/{number - 2}.xml"
        xml.write_text(xml.read_text().replace(f"{number}.png", f"{number - 2}.png"))
    changes = {}
    for name in ("Annotations", "images", "SegmentationObject"):
        for folder in ("train", "val"):
            (place / name).mkdir(exist_ok=True)
            (place / folder / name).rename(place / name / folder)
        changes[name] = f"{place}/{name}"
    changed = {"annotations": changes["Annotations"], "images": changes["images"]}
    return spec.model_copy(update={**changed, "mask_folder": changes["SegmentationObject"]})


def read_listed(
    spec: AnnotatedImagesSpec, tmp_path: Path, lines: list[str] | None = None
) -> tuple[list[str], Findings]:
    """Image files of the set, or of these lines of it."""
    if lines is not None:
        (tmp_path / "list.txt").write_text("\n".join(lines))
        spec = spec.model_copy(update={"image_set": f"{tmp_path}/list.txt"})
    folder, findings = Path(spec.images), Findings()
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    found, _ = read_voc(spec, STORE, files, False, findings)
    return [image.file for image in found], findings


def test_files_of_the_same_name_in_several_folders_are_all_used(tmp_path: Path) -> None:
    spec = in_two_folders(tmp_path)
    found = as_read(spec, masks=True)
    assert [image.file for image in found.images] == ["train/0.png", "train/1.png", "val/0.png", "val/1.png"]
    expected = as_read(write_coco(tmp_path / "coco", "all", range(4)), masks=True)
    assert [image.instances for image in found.images] == [image.instances for image in expected.images]
    assert found.warnings == ()


def test_an_image_set_names_files_by_path_or_by_a_name_that_only_one_has(tmp_path: Path) -> None:
    spec = in_two_folders(tmp_path)
    (tmp_path / "Annotations/train/1.xml").unlink()
    found, findings = read_listed(spec, tmp_path, ["0", "1", "val/0", "val/1", "train/1", "other/1"])
    assert found == ["val/0.png", "val/1.png"]
    assert findings.images == {
        "are in the image set by a name that several XML files have": 1,
        "are in the image set without an XML file": 2,
    }
    (several, _) = findings.first.values()
    assert several == "0: train/0.xml or val/0.xml"


def test_no_image_of_another_folder_is_taken_for_one_that_is_missing(tmp_path: Path) -> None:
    spec = in_two_folders(tmp_path)
    images = tmp_path / "images"
    (images / "train/0.png").unlink()
    reason = "share a name with others and have no file that is theirs alone"
    found, findings = read_listed(spec, tmp_path)
    assert found == ["train/1.png", "val/0.png", "val/1.png"]
    assert (findings.images, findings.first) == ({reason: 1}, {reason: "train/0.xml: val/0.png"})
    # Neither is one beside the folders, which both XML files would name.
    (images / "val/0.png").rename(images / "0.png")
    for lines in (None, ["train/0", "val/0"], ["val/0"]):
        found, findings = read_listed(spec, tmp_path, lines)
        assert not {"0.png", "train/0.png", "val/0.png"} & set(found)
        assert findings.images == {reason: 1 if lines == ["val/0"] else 2}
    # Unless one says so by another name.
    (images / "0.png").rename(images / "first.png")
    (tmp_path / "Annotations/val/0.xml").write_text(voc_xml("first.png", [("disc", (1, 1, 9, 9))]))
    assert read_listed(spec, tmp_path, ["val/0"])[0] == ["first.png"]


def test_a_name_that_only_one_has_is_found_in_any_folder(tmp_path: Path) -> None:
    spec = write_voc(tmp_path, range(2))
    for number in range(2):
        (tmp_path / f"Annotations/{number}.xml").write_text(voc_xml("", [("disc", (1, 1, 9, 9))]))
    (tmp_path / "images/deep").mkdir()
    (tmp_path / "images/1.png").rename(tmp_path / "images/deep/1.png")
    (tmp_path / "images/1.txt").write_text("a caption")
    assert read_listed(spec, tmp_path)[0] == ["0.png", "deep/1.png"]
    (tmp_path / "images/0.jpg").write_bytes(b"")
    found, findings = read_listed(spec, tmp_path)
    assert found == ["deep/1.png"]
    assert list(findings.first.values()) == ["0.xml: 0.jpg or 0.png"]
