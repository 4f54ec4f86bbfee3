#!/bin/sh
# Build the program: build.sh OUT_DIR FENCE PLACE makes OUT_DIR/guest-FENCE-PLACE, with DWARF.
# FENCE: none, lfence, mfence, sfence, lockadd, xchg.  PLACE: inline, outofline.
set -eu

usage() {
	sed -n '2,3s/^# //p' "$0" >&2
	exit 2
}

[ $# = 3 ] || usage
out=$1 fence=$2 place=$3
here=$(cd "$(dirname "$0")" && pwd)

case $fence in
	none) insn= ;;
	lfence | mfence | sfence) insn=$fence ;;
	lockadd) insn="lock addq \$0, -8(%%rsp)" ;;
	xchg) insn="xchgq %%rax, -8(%%rsp)" ;;
	*) usage ;;
esac
case $place in
	inline) out_of_line= ;;
	outofline) out_of_line=yes ;;
	*) usage ;;
esac

mkdir -p "$out"
# -mno-red-zone, -mgeneral-regs-only and -fno-strict-aliasing, as for kernels.  Loops and functions are aligned, so that code placement
# differs less between builds.
compile="${CC:-gcc} -O2 -g -std=gnu11 -Wall -Wextra -Werror -mno-red-zone -fno-pic -fcf-protection=none
	-fno-stack-protector -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns -fno-strict-aliasing
	-falign-functions=64 -falign-loops=64 -ffile-prefix-map=$PWD=. -ffile-prefix-map=$here=."
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT
for source in guest kernel_work sections; do
	$compile -mgeneral-regs-only -DFENCE="\"$insn\"" ${out_of_line:+-DOUT_OF_LINE} -c -o "$objects/$source.o" "$here/$source.c"
done
for source in xen main; do
	$compile -DFENCE="\"$insn\"" -DFENCE_NAME="\"$fence\"" -DPLACE_NAME="\"$place\"" ${out_of_line:+-DOUT_OF_LINE} \
		-c -o "$objects/$source.o" "$here/$source.c"
done
${CC:-gcc} -no-pie -pthread -Wl,--build-id=sha1 -o "$out/guest-$fence-$place" "$objects"/*.o -lm
