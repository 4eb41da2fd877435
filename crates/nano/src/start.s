// The way down: from the 64-bit boot protocol (CPL 0, RSI = boot_params) to
// nano_main at CPL 3. Where CPL 0 is emulated every instruction here costs most
// of a microsecond, so there are few, and tables are filled by the assembler.

.set USER_DATA, 0x1b
.set USER_CODE, 0x23
.set FIRST_TSS, 0x28
.set USER_RFLAGS, 0x3202        // IOPL 3, interrupts on, the bit that is always set
.set CR4_SSE, 0x600             // OSFXSR, OSXMMEXCPT
.set MSR_GS_BASE, 0xc0000101
.set CPUS, 8
.set TSS, 104                   // bytes, without the I/O bitmap
.set PORTS, 0x600               // those below are allowed at CPL 3
.set TSS_STRIDE, 512
.set KERNEL_STACK, 0x400
.set USER_STACK, 0x4000

.section .text.nano_start, "ax"
.global nano_start
nano_start:
    xor edi, edi

// EDI: number of this CPU. RSI goes on to nano_main.
.global nano_enter
nano_enter:
    lgdt [rip + nano_gdt_pointer]
    lidt [rip + nano_idt_pointer]
    lea rax, [rip + nano_pml4]
    mov cr3, rax
    mov rax, cr4
    or eax, CR4_SSE
    mov cr4, rax
    mov eax, USER_DATA
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax

    // GS: this CPU's nano_locals.
    mov eax, edi
    shl eax, 6
    lea rdx, [rip + nano_locals]
    add rax, rdx
    xor edx, edx
    mov ecx, MSR_GS_BASE
    wrmsr

    // This CPU's TSS: where interrupts find their stack, and which ports are allowed.
    // Ports are by IOPL as well, for PVM has no IOPL, and QEMU's emulated processor
    // does not look at the bitmap of a TSS that was restored.
    imul r8d, edi, TSS_STRIDE
    lea rax, [rip + nano_tss]
    add r8, rax
    lea r9d, [rdi + 1]
    imul r9d, r9d, KERNEL_STACK
    lea rax, [rip + nano_kernel_stacks]
    add r9, rax
    mov [r8 + 4], r9
    mov rsp, r9

    // Its descriptor: "available 64-bit TSS", below 16 MiB.
    mov r9d, edi
    shl r9d, 4
    add r9d, FIRST_TSS
    lea rax, [rip + nano_gdt]
    shl r8, 16
    mov rcx, 0x0000890000000000 + TSS + PORTS / 8
    or r8, rcx
    mov [rax + r9], r8
    ltr r9w

    lea eax, [rdi + 1]
    imul eax, eax, USER_STACK
    lea rdx, [rip + nano_user_stacks - 8]
    add rax, rdx
    push USER_DATA
    push rax
    push USER_RFLAGS
    push USER_CODE
    lea rax, [rip + nano_main]
    push rax
    iretq

.section .data.nano_tables, "aw"
.balign 8
.global nano_gdt_pointer
nano_gdt_pointer:
    .word FIRST_TSS + 16 * CPUS - 1
    .quad nano_gdt
.balign 8
nano_idt_pointer:
    .word 256 * 16 - 1
    .quad NANO_IDT
.balign 8
nano_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    // code, CPL 0
    .quad 0x00cf93000000ffff    // data, CPL 0
    .quad 0x00cff3000000ffff    // data, CPL 3
    .quad 0x00affb000000ffff    // code, CPL 3
    .fill 2 * CPUS, 8, 0
.balign TSS_STRIDE
nano_tss:
    .rept CPUS
    .fill TSS - 2, 1, 0
    .word TSS                   // where the bitmap is
    .fill PORTS / 8, 1, 0
    .byte 0xff                  // which must end so
    .balign TSS_STRIDE
    .endr

// The first 4 GiB one to one, for CPL 3 too: present, writable, user, and
// already accessed and dirty, so that the processor never has to write here.
.balign 4096
.global nano_pml4
nano_pml4:
    .quad nano_pdpt + 0x27
    .fill 511, 8, 0
.global nano_pdpt
nano_pdpt:
    .set gib, 0
    .rept 4
    .quad nano_directories + 0x1000 * gib + 0x27
    .set gib, gib + 1
    .endr
    .fill 508, 8, 0
nano_directories:
    .set page, 0
    .rept 4 * 512
    .quad page << 21 | 0xe7
    .set page, page + 1
    .endr

.section .bss.nano_stacks, "aw", @nobits
.balign 64
nano_locals:
    .skip 64 * CPUS
.balign 16
nano_kernel_stacks:
    .skip KERNEL_STACK * CPUS
nano_user_stacks:
    .skip USER_STACK * CPUS
