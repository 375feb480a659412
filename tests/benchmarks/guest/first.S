/* The shortest guest: its first instructions end it, whoever started it. */

        .section .note.pvh, "a", @note
        .long 4, 4, 18          /* XEN_ELFNOTE_PHYS32_ENTRY */
        .asciz "Xen"
        .long _start

        /* The same in 32-bit and in 64-bit mode. */
        .text
        .code32
        .globl _start
_start:
        mov $1, %al
        mov $0x602, %edx        /* pyvmm's reset register */
        out %al, %dx
        mov $0xf4, %edx         /* QEMU's isa-debug-exit */
        out %al, %dx
1:      jmp 1b
