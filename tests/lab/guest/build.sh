#!/bin/sh
# Build the guest: build.sh OUT_DIR [FENCE [PLACE]] makes OUT_DIR/guest-FENCE-PLACE.elf, with DWARF, and OUT_DIR/guest.cfg for xl.
# FENCE: none, lfence (the default), mfence, lockadd, xchg.  PLACE: inline (the default), outofline.
set -eu

usage() {
	sed -n '2,3s/^# //p' "$0" >&2
	exit 2
}

case $# in
	1 | 2 | 3) ;;
	*) usage ;;
esac
out=$1 fence=${2:-lfence} place=${3:-inline}
here=$(cd "$(dirname "$0")" && pwd)

case $fence in
	none) insn= ;;
	lfence | mfence) insn=$fence ;;
	lockadd) insn="lock addq \$0, (%%rsp)" ;;
	xchg) insn="xchgq %%rax, -8(%%rsp)" ;;
	*) usage ;;
esac
case $place in
	inline) out_of_line= ;;
	outofline) out_of_line=yes ;;
	*) usage ;;
esac

mkdir -p "$out"
image=guest-$fence-$place.elf
# -mno-red-zone: upcalls push onto the interrupted stack.  -mgeneral-regs-only: they save no other registers.
${CC:-gcc} -O2 -g -std=gnu11 -Wall -Wextra -Werror -ffreestanding -nostdlib -static -no-pie -fno-pic -mcmodel=kernel \
	-mno-red-zone -mgeneral-regs-only -fcf-protection=none -fno-stack-protector -fno-asynchronous-unwind-tables \
	-fno-tree-loop-distribute-patterns -ffile-prefix-map="$PWD"=. -ffile-prefix-map="$here"=. \
	-DFENCE="\"$insn\"" -DFENCE_NAME="\"$fence\"" -DPLACE_NAME="\"$place\"" ${out_of_line:+-DOUT_OF_LINE} \
	-Wl,--build-id=sha1 -Wl,-z,max-page-size=4096 -Wl,-z,noexecstack -Wl,--fatal-warnings -Wl,-T,"$here/guest.lds" \
	-o "$out/$image" "$here"/start.S "$here"/*.c

cat > "$out/guest.cfg" <<END
# Two of these ping each other: one with role=listen peer=DOMID, the other with role=connect peer=DOMID port=PORT.
name = "xtrace-guest"
type = "pv"
kernel = "$image"
memory = 16
vcpus = 1
# Otherwise the TSCs in its log would not be the host's.
tsc_mode = "native"
extra = "seconds=5 timer=1000 work=1000"
END
