/* A driver that another one steers: makes the accesses that it is told to, one after the other, at privilege level 3.
 *
 * A read of the port COMMANDS returns when there is something to do, and what; at COMMAND are its address, its value,
 * and room for its result. The bytes of this are in vcpu_driver.py.
 */
        .set    COMMANDS, 0x520
        .set    COMMAND, 0x300000
        .set    POWER, 0x600

        .globl  _start
_start: movl    $COMMAND, %ebx
        leaq    slots(%rip), %r8
next:   movl    $COMMANDS, %edx
        inl     %dx, %eax
        movq    (%rbx), %rsi
        movq    8(%rbx), %rcx
        movl    %esi, %edx
        shll    $4, %eax
        addq    %r8, %rax
        jmp     *%rax
store:  movq    %rax, 16(%rbx)
        jmp     next

        .macro  slot op:vararg
        .balign 16, 0xcc
        \op
        .endm
        .macro  give op:vararg
        slot    \op
        jmp     store
        .endm

        .balign 16, 0xcc
slots:  movl    $POWER, %edx    /* 0: the end */
        movb    $0x34, %al
        outb    %al, %dx
        jmp     .
        give    movzbl (%rsi), %eax     /* 1 */
        give    movzwl (%rsi), %eax
        give    movl (%rsi), %eax
        give    movq (%rsi), %rax
        slot    movb %cl, (%rsi)        /* 5 */
        jmp     next
        slot    movw %cx, (%rsi)
        jmp     next
        slot    movl %ecx, (%rsi)
        jmp     next
        slot    movq %rcx, (%rsi)
        jmp     next
        .balign 16, 0xcc                /* 9 */
        xorl    %eax, %eax
        inb     %dx, %al
        jmp     store
        .balign 16, 0xcc
        xorl    %eax, %eax
        inw     %dx, %ax
        jmp     store
        give    inl %dx, %eax
        .balign 16, 0xcc                /* 12 */
        movl    %ecx, %eax
        outb    %al, %dx
        jmp     next
        .balign 16, 0xcc
        movl    %ecx, %eax
        outw    %ax, %dx
        jmp     next
        .balign 16, 0xcc
        movl    %ecx, %eax
        outl    %eax, %dx
        jmp     next
