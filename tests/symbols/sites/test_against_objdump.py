"""Compare the site finder with a second one that reads objdump's text, on real images and on guests."""

from __future__ import annotations

from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from builders.guest import Builder, Variant
from peer.debian import dependency, unpacked
from peer.objdump import Access, Layout, disassemble, find_accesses, global_addresses
from peer.objdump_linux import find_linux_accesses
from xtrace.symbols.image.image import open_image
from xtrace.symbols.sites.finder import find_sites
from xtrace.symbols.sites.model import Kind, Site, Verdict

#: The peer does not know why a field is read.
READS = {
    Kind.SAVE: {"mask read"},
    Kind.MASK_TEST: {"mask read"},
    Kind.PENDING_TEST: {"pending read"},
    Kind.DEBUG_READ: {"mask read", "pending read", "selector read"},
}
GRUBS = ("grub-x86_64-xen.bin", "grub-i386-xen.bin")
#: The other guests use arguments, lists and jump tables, which the peer does not follow.
GUESTS = ("linux_amd64.S", "decoys_amd64.S", "hazards_amd64.S", "minios_amd64.S", "page_amd64.S")
#: The package may have to be fetched first.
FETCHED = pytest.mark.timeout(550)


def different(sites: tuple[Site, ...], accesses: list[Access]) -> list[str]:
    """Return the addresses and kinds on which the two finders disagree."""
    ours = {site.address: site for site in sites if site.kind is not Kind.FORCE_CALLBACK}
    theirs = {access.address: access for access in accesses}
    wrong = [f"{hex(at)} only here: {ours[at].kind}: {ours[at].text}" for at in ours.keys() - theirs.keys()]
    wrong += [f"{hex(at)} only there: {theirs[at]}" for at in theirs.keys() - ours.keys()]
    for at in ours.keys() & theirs.keys():
        if theirs[at].kind not in READS.get(ours[at].kind, {str(ours[at].kind)}):
            wrong.append(f"{hex(at)}: {ours[at].kind} here, {theirs[at].kind} there")
    return sorted(wrong)


@pytest.mark.slow
@FETCHED
def test_debians_kernel(tmp_path: Path) -> None:
    package = dependency("linux-image-cloud-amd64", r"linux-image-\d\S*-cloud-amd64")
    (kernel,) = (unpacked(package) / "boot").glob("vmlinuz-*")
    image = open_image(kernel)
    plain = tmp_path / "vmlinux"
    plain.write_bytes(image.data)
    table = find_sites(image)
    accesses = find_linux_accesses(disassemble(plain))
    assert len(accesses) >= 10
    wrong = different(table.sites, accesses)
    assert not wrong, "\n".join(["", *wrong])
    places = {site.symbol: site for site in table.sites}
    assert places.keys() >= {"xen_irq_enable_direct", "xen_irq_disable_direct", "xen_save_fl_direct"}
    stores = [site for site in table.sites if site.kind in (Kind.MASK, Kind.UNMASK, Kind.RESTORE)]
    assert {site.verdict for site in stores} == {Verdict.NO_FENCE}


@FETCHED
@pytest.mark.parametrize("name", GRUBS)
def test_grub_images_have_no_sites(name: str) -> None:
    """GRUB polls and never masks: it accesses no byte at offset 1 through a global pointer."""
    image = unpacked("grub-xen-host") / "usr/lib/grub-xen" / name
    listing = disassemble(image, "-D", "-j", ".text")
    pointers = tuple(sorted(global_addresses(listing)))
    bits = 64 if "x86_64" in name else 32
    accesses = find_accesses(listing, Layout(bits=bits, shared_pointers=pointers))
    assert len(accesses) > 10
    assert not [one for one in accesses if one.width_bytes == 1 and one.kind in ("mask", "unmask", "restore")]
    assert find_sites(open_image(image)).sites == ()


@pytest.mark.parametrize("name", GUESTS)
def test_guests(tmp_path: Path, name: str) -> None:
    guest = Builder(tmp_path).build(name, Variant())
    accesses = find_accesses(disassemble(guest.image), layout_of(guest.image, name))
    assert accesses
    wrong = different(find_sites(open_image(guest.image)).sites, accesses)
    assert not wrong, "\n".join(["", *wrong])


def layout_of(image: Path, name: str) -> Layout:
    """Return where a guest of tests/symbols/guests keeps its vcpu_infos."""
    with image.open("rb") as stream:
        symbols = ELFFile(stream).get_section_by_name(".symtab")
        assert isinstance(symbols, SymbolTableSection)
        at = {symbol.name: symbol["st_value"] for symbol in symbols.iter_symbols()}
    if name.startswith("linux"):
        return Layout(area=at["xen_vcpu_info"], pointer=at["xen_vcpu"], cpu_bases=at["__per_cpu_offset"])
    if name.startswith("minios"):
        pointer = at["HYPERVISOR_shared_info"]
        return Layout(shared_pointers=(pointer,), shared_page=at["shared_info"])
    if name.startswith("page"):
        return Layout(shared_page=at["HYPERVISOR_shared_info"])
    if name.startswith("hazards"):
        return Layout(self_pointer=0x10, vcpu_field=0x1B0)
    return Layout(self_pointer=0x20, vcpu_field=0x2A8)
