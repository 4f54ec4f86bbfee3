/*
 * What the assembly guests share.
 *
 * An expectation stands on the line of its instruction (of the last one, where a macro makes several):
 *   # SITE kind fence=mnemonic/how[/position][/paths][:verdict][+...] verdict=... hazards=a+b key=value
 * See tests/symbols/expected.py for the keys.
 */
#define FUNC(name) .globl name; .type name, @function; .balign 16; name:
#define END(name) .size name, . - name
/* A function as old assemblers left it: no size. */
#define UNSIZED(name) .globl name; .type name, @function; .balign 16; name:

#define MASK 1
#define SELECTOR 8
#define SELECTOR32 4
#define HYPERCALL(number) hypercall_page + (number) * 32
#define XEN_VERSION 17
#define IRET 23
