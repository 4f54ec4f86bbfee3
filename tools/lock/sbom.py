"""Write the software bill of materials (CycloneDX 1.6) of an installed xtrace, or compare it with one.

usage: sbom.py [--installed PYTHON] [OUTPUT]     (default: build/xtrace.cdx.json)

It has what the lock files say for the Python and the processor that run this: what xtrace imports, and, as
excluded, what it is built with.  Licenses and who needs whom come from the packages themselves, so .venv must
have them.  The same lock files and the same Python give the same bytes.  With --installed, the packages of
another Python must be exactly those that xtrace imports; what differs is printed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from platform import machine
from typing import Any

from lockfile import FOLDER, Pin, Target, of
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = FOLDER.parents[1]
#: What `python -m venv` installs, and xtrace itself.
NOT_COMPARED = {"pip", "setuptools", "xtrace"}
_INSTALLED = """
import json
from importlib.metadata import distributions
print(json.dumps({one.name: one.version for one in distributions()}))
"""


def here() -> Target:
    """Return the Python and the processor that run this."""
    return Target("{}.{}".format(*sys.version_info[:2]), machine())


def bill(target: Target) -> dict[str, Any]:
    """Return the bill for a target.

    Raises:
        PackageNotFoundError: a package is not installed for the Python that runs this.
    """
    runtime = {pin.name: pin for pin in of("runtime") if target.has(pin.marker)}
    build = {pin.name: pin for pin in of("build") if target.has(pin.marker)} | runtime
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = [
        Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["zstd"])
    ]
    needs = {_reference(pin): _needs(pin, build) for pin in build.values()}
    top = {
        "type": "application", "bom-ref": "xtrace", "name": "xtrace",
        "version": distribution("xtrace").version, "description": project["description"],
        "licenses": [{"license": {"id": project["license"]}}],
    }  # fmt: skip
    needs["xtrace"] = sorted(_reference(runtime[canonicalize_name(one.name)]) for one in direct)
    content = {
        "metadata": {"component": top},
        "components": [
            _component(pin, "required" if name in runtime else "excluded")
            for name, pin in sorted(build.items())
        ],
        "dependencies": [{"ref": one, "dependsOn": needed} for one, needed in sorted(needs.items())],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(content, sort_keys=True))
    head = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
    }
    return {**head, **content}


def _reference(pin: Pin) -> str:
    return f"pkg:pypi/{pin.name}@{pin.version}"


def _component(pin: Pin, scope: str) -> dict[str, Any]:
    """Return a package; if pip chooses among files, their hashes are properties: the package has none."""
    found: dict[str, Any] = {
        "type": "library", "bom-ref": _reference(pin), "name": pin.name, "version": pin.version,
        "scope": scope, "licenses": _licenses(pin.name), "purl": _reference(pin),
    }  # fmt: skip
    if len(pin.hashes) == 1:
        return {**found, "hashes": [{"alg": "SHA-256", "content": pin.hashes[0]}]}
    return {**found, "properties": [{"name": "xtrace:file:sha256", "value": one} for one in pin.hashes]}


def _licenses(name: str) -> list[dict[str, Any]]:
    """Return what a package says: an expression, else its classifiers, else the first line of its text."""
    about = distribution(name).metadata
    if expression := about.get("License-Expression"):
        return [{"expression": expression}]
    said = [
        text.rpartition(" :: ")[2]
        for text in about.get_all("Classifier", [])
        if text.startswith("License ::")
    ]
    said = said or about.get("License", "").strip().splitlines()[:1]
    return [{"license": {"name": text}} for text in said]


def _needs(pin: Pin, known: Mapping[str, Pin]) -> list[str]:
    wanted = map(Requirement, distribution(pin.name).requires or ())
    names = {
        canonicalize_name(one.name) for one in wanted if not one.marker or one.marker.evaluate({"extra": ""})
    }
    return sorted(_reference(known[name]) for name in names if name in known)


def differences(found: Mapping[str, Any], installed: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each package that a bill and an environment (version by name) do not share."""
    listed = {one["name"]: one["version"] for one in found["components"] if one["scope"] == "required"}
    there = {canonicalize_name(name): version for name, version in installed.items()}
    for name in sorted((listed.keys() | there.keys()) - NOT_COMPARED):
        if listed.get(name) != there.get(name):
            yield f"{name}: {there.get(name, 'not')} installed, {listed.get(name, 'not')} in the bill"


def main(arguments: list[str]) -> int:
    """Write the bill, compare it; return the exit code."""
    parser = argparse.ArgumentParser(prog="sbom.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--installed", metavar="PYTHON", help="compare with the packages of this Python")
    parser.add_argument("output", nargs="?", type=Path, default=ROOT / "build" / "xtrace.cdx.json")
    chosen = parser.parse_args(arguments)
    try:
        found = bill(here())
    except PackageNotFoundError as error:
        sys.stderr.write(f"sbom.py: {sys.executable} has no {error.name}: run it with .venv/bin/python\n")
        return 1
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    sys.stdout.write(f"{chosen.output}: {len(found['components'])} packages\n")
    if chosen.installed is None:
        return 0
    done = subprocess.run(
        [chosen.installed, "-I", "-c", _INSTALLED], stdout=subprocess.PIPE, text=True, check=True
    )
    lines = list(differences(found, json.loads(done.stdout)))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
