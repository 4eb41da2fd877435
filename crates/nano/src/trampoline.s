// Where an application processor begins: real mode, in the page the SIPI names.
// Copied there; the words at its end are filled in by cpu.rs.

.set TRAMPOLINE, 0x10000
.set AP_CR3, 0x80                  // offsets of words
.set AP_GDT, 0x88
.set PAE, 0x20
.set MSR_EFER, 0xc0000080
.set LONG_MODE, 0x100
.set PAGING_PROTECTION, 0x80000011

.section .data.nano_trampoline, "aw"
.global nano_trampoline, nano_trampoline_end
.global nano_ap_gdt, nano_ap_cr3, nano_ap_entry, nano_ap_params
nano_trampoline:
.code16
    cli
    mov ax, cs
    mov ds, ax
    lgdtd ds:[AP_GDT]
    mov eax, PAE
    mov cr4, eax
    mov eax, ds:[AP_CR3]
    mov cr3, eax
    mov ecx, MSR_EFER
    mov eax, LONG_MODE
    xor edx, edx
    wrmsr
    mov eax, PAGING_PROTECTION
    mov cr0, eax
    // jmp KERNEL_CODE:1f, 32-bit
    .byte 0x66, 0xea
    .long TRAMPOLINE + (1f - nano_trampoline)
    .word 0x08
.code64
1:
    mov edi, 1
    lock xadd [rip + nano_ap_next], edi
    mov rsi, [rip + nano_ap_params]
    jmp [rip + nano_ap_entry]

.org nano_trampoline + AP_CR3
nano_ap_cr3:    .quad 0
nano_ap_gdt:    .skip 16
nano_ap_params: .quad 0
nano_ap_entry:  .quad 0
nano_ap_next:   .long 1
nano_trampoline_end:
