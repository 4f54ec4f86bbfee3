/*
 * Definitions shared by the assembly guests.
 *
 * An expectation is on the line of its instruction (of the last one, if a macro makes several):
 *   # SITE kind fence=mnemonic/how[/position][/paths][:verdict][+...] verdict=... hazards=a+b key=value
 * See tests/builders/expected.py for the keys.
 */
#define FUNC(name) .globl name; .type name, @function; .balign 16; name:
#define END(name) .size name, . - name
/* A function without a size, as in old hand-written assembly. */
#define UNSIZED(name) .globl name; .type name, @function; .balign 16; name:

#define MASK 1
#define SELECTOR 8
#define SELECTOR32 4
#define HYPERCALL(number) hypercall_page + (number) * 32
#define XEN_VERSION 17
#define IRET 23
