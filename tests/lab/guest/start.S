/* Xen notes, entry, hypercall page and the event callback. */
#include "xen.h"

/* Otherwise the symbol would have the name of a temporary file. */
	.file	"start.S"

#define VIRT_BASE 0xffffffff80000000
#define STACK_BYTES 16384

#define NOTE(number, value...) \
	.long 4, 2f - 1f, number; .asciz "Xen"; 1: value; 2: .balign 4

	.section .note.Xen, "a", @note
	NOTE(NOTE_GUEST_OS, .asciz "xtrace-guest")
	NOTE(NOTE_GUEST_VERSION, .asciz "1")
	NOTE(NOTE_XEN_VERSION, .asciz "xen-3.0")
	NOTE(NOTE_LOADER, .asciz "generic")
	NOTE(NOTE_FEATURES, .asciz "pae_pgdir_above_4gb")
	NOTE(NOTE_VIRT_BASE, .quad VIRT_BASE)
	NOTE(NOTE_PADDR_OFFSET, .quad 0)
	NOTE(NOTE_ENTRY, .quad _start)
	NOTE(NOTE_HYPERCALL_PAGE, .quad hypercall_page)

	.text
/* Xen fills it in. */
	.balign	4096
	.globl	hypercall_page
	.type	hypercall_page, @function
hypercall_page:
	.skip	4096, 0x90
	.size	hypercall_page, . - hypercall_page

/* Entered with start_info in %rsi and upcalls masked. */
	.globl	_start
	.type	_start, @function
_start:
	lea	stack_end(%rip), %rsp
	mov	%rsi, %rdi
	call	guest_main
	ud2
	.size	_start, . - _start

/*
 * Entered on the interrupted stack, which Xen aligned before it pushed ss, rsp, rflags, cs, rip, r11 and
 * rcx. The iret hypercall needs another word below rip, and restores the mask from rflags.
 */
	.globl	hypervisor_callback
	.type	hypervisor_callback, @function
hypervisor_callback:
	pop	%rcx
	pop	%r11
	push	%rax
	push	%rcx
	push	%rdx
	push	%rsi
	push	%rdi
	push	%r8
	push	%r9
	push	%r10
	push	%r11
	cld
	call	evtchn_upcall
	pop	%r11
	pop	%r10
	pop	%r9
	pop	%r8
	pop	%rdi
	pop	%rsi
	pop	%rdx
	pop	%rcx
	pop	%rax
	push	$0
	jmp	hypercall_page + XEN_IRET * XEN_HYPERCALL_BYTES
	.size	hypervisor_callback, . - hypervisor_callback

/* Neither can happen: no segment can fail, and there is no user mode. Xen would print where it crashed. */
	.globl	failsafe_callback, syscall_callback
	.type	failsafe_callback, @function
	.type	syscall_callback, @function
failsafe_callback:
	ud2
	.size	failsafe_callback, . - failsafe_callback
syscall_callback:
	ud2
	.size	syscall_callback, . - syscall_callback

	.bss
	.balign	16
	.skip	STACK_BYTES
stack_end:

	.section .note.GNU-stack, "", @progbits
