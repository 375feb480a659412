/*
 * Where the guest begins: in 64-bit mode with a zero page (Linux boot protocol) or in 32-bit mode with a start_info
 * (PVH). It puts up tables of its own, so that all is as it is whoever started it, and calls guest_main at privilege
 * level LEVEL: at 3 it may use all ports, by the TSS's bitmap, since not every KVM that emulates IRETQ keeps IOPL.
 */

#define CODE32 0x08
#define CODE64 0x10
#define DATA   0x18
#define USER_CODE 0x23
#define USER_DATA 0x2b
#define TASK   0x30

#define MSR_EFER 0xc0000080
#define EFER_LME 0x100
#define CR0_PE_MP_ET_NE_WP_PG 0x80010033
#define CR4_PAE_OSFXSR_OSXMMEXCPT 0x620
#define IO_PORTS 0x10000

        .section .note.pvh, "a", @note
        .long 4, 4, 18          /* XEN_ELFNOTE_PHYS32_ENTRY */
        .asciz "Xen"
        .long pvh_start

        .text
        .code32
pvh_start:
        cli
        mov $stack_top, %esp
        mov %ebx, boot_data
        lgdt gdt_pointer
        mov $pml4, %eax
        mov %eax, %cr3
        mov $CR4_PAE_OSFXSR_OSXMMEXCPT, %eax
        mov %eax, %cr4
        mov $MSR_EFER, %ecx
        rdmsr
        or $EFER_LME, %eax
        wrmsr
        mov $CR0_PE_MP_ET_NE_WP_PG, %eax
        mov %eax, %cr0
        ljmp $CODE64, $long_mode

        .code64
        .globl _start
_start:
        cli
        mov $stack_top, %rsp
        mov %rsi, boot_data
        lgdt gdt_pointer
        mov $pml4, %eax
        mov %rax, %cr3
        push $CODE64
        push $long_mode
        lretq

long_mode:
        mov $DATA, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
#if LEVEL == 3
        mov $task, %rax
        mov $task_descriptor, %rbx
        mov %ax, 2(%rbx)
        shr $16, %rax
        mov %al, 4(%rbx)
        mov %ah, 7(%rbx)
        mov $TASK, %eax
        ltr %ax
        push $USER_DATA
        push $stack_top
        push $2
        push $USER_CODE
        push $user
        iretq
user:
#endif
        mov boot_data, %rdi
        xor %ebp, %ebp
        call guest_main
1:      jmp 1b

        .data
        .balign 16
gdt:
        .quad 0
        .quad 0x00cf9b000000ffff
        .quad 0x00af9b000000ffff
        .quad 0x00cf93000000ffff
        .quad 0x00affb000000ffff
        .quad 0x00cff3000000ffff
task_descriptor:
        .word task_end - task - 1, 0
        .byte 0, 0x89, 0, 0
        .quad 0
gdt_end:
gdt_pointer:
        .word gdt_end - gdt - 1
        .quad gdt

boot_data:
        .quad 0

#if LEVEL == 3
        .balign 16
task:
        .fill 102
        .word io_bitmap - task
io_bitmap:
        .fill IO_PORTS / 8
        .byte 0xff
task_end:
#else
        .set task, 0
        .set task_end, 0x68
#endif

        /* The first 4 GiB, each address to itself, in pages of 2 MiB that privilege level 3 may use. */
        .balign 4096
pml4:
        .quad pdpt + 7
        .fill 511, 8, 0
pdpt:
        .quad pd + 7, pd + 0x1007, pd + 0x2007, pd + 0x3007
        .fill 508, 8, 0
pd:
        .set page, 0
        .rept 4 * 512
        .quad (page << 21) | 0xe7
        .set page, page + 1
        .endr

        .bss
        .balign 16
        .skip 65536
stack_top:
