/* Linked into every guest: Xen's notes, the hypercall page, an entry point. */
#include "asm.h"

#ifdef __x86_64__
#define POINTER .quad
#else
#define POINTER .long
#endif

#define NOTE_STRING(kind, text) \
	.balign 4; .long 4, 2f - 1f, kind; .asciz "Xen"; 1: .asciz text; 2: .balign 4
#define NOTE_POINTER(kind, value) \
	.balign 4; .long 4, 2f - 1f, kind; .asciz "Xen"; 1: POINTER value; 2: .balign 4

	.section .note.Xen, "a", @note
	NOTE_STRING(6, "sample")
	NOTE_STRING(5, "xen-3.0")
	NOTE_POINTER(1, start)
	NOTE_POINTER(2, hypercall_page)

	.text
FUNC(start)
	hlt
	jmp start
END(start)

	.balign 4096
	.globl hypercall_page
	.type hypercall_page, @function
hypercall_page:
	.rept 128
	.fill 31, 1, 0x90
	ret
	.endr
	.size hypercall_page, . - hypercall_page
	.section .note.GNU-stack, "", @progbits
