#!/bin/sh
# Build the worker: build.sh OUT_DIR FENCE PLACE [CFLAG...] makes OUT_DIR/worker-FENCE-PLACE, with DWARF.
# FENCE: none, lfence, mfence, sfence, lockadd, xchg.  PLACE: inline, outofline.
set -eu

[ $# -ge 3 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
out=$1 fence=$2 place=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
guest=$here/../accuracy

case $fence in
	none) insn= ;;
	lfence | mfence | sfence) insn=$fence ;;
	lockadd) insn="lock addq \$0, -8(%%rsp)" ;;
	xchg) insn="xchgq %%rax, -8(%%rsp)" ;;
	*) echo "build.sh: no such fence: $fence" >&2; exit 2 ;;
esac
out_of_line=
[ "$place" = inline ] || out_of_line=-DOUT_OF_LINE

mkdir -p "$out"
compile="${CC:-gcc} -O2 -g -std=gnu11 -Wall -Wextra -Werror -mno-red-zone -fno-pic -fcf-protection=none
	-fno-stack-protector -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns
	-falign-functions=64 -falign-loops=64 -I$guest -I$here -ffile-prefix-map=$here=. $*"
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT
for source in "$guest/guest.c" "$here/loops.c"; do
	$compile -mgeneral-regs-only -DFENCE="\"$insn\"" $out_of_line -c -o "$objects/$(basename "$source" .c).o" "$source"
done
for source in "$guest/xen.c" "$here/worker.c"; do
	$compile -DFENCE="\"$insn\"" $out_of_line -c -o "$objects/$(basename "$source" .c).o" "$source"
done
${CC:-gcc} ${LINK:--no-pie} -pthread -Wl,--build-id=sha1 -o "$out/worker-$fence-$place" "$objects"/*.o -lm
